/* A convolution over time and frequency, a row of time after the other.
 *
 * Activations of a time step are (frequencies, channels): channels last. The weight is
 * (outputs, kernel over time, kernel over frequency, channels) in this order.
 *
 *     y[t, f, o] = b[o] + sum_{i, j, c} w[o, i, j, c] x[st t + i - pt, sf f + j - pf, c]
 */
#ifndef GQ_ASR_CONV2D_H
#define GQ_ASR_CONV2D_H

#include <string>
#include <vector>

#include "file/loader.h"
#include "frames.h"
#include "layers/matrix.h"

namespace asr {

struct Conv2d {
    Matrix weight;
    int64_t kernel_time = 3, kernel_width = 3;
    int64_t stride = 1;  /* of both */
    int64_t padding = 0; /* of both, with zeros */
    int64_t channels = 0, width_in = 0, width_out = 0;

    /* A square kernel; x has (width, channels) at each time. */
    static Conv2d load(Loader &loader, const std::string &name, int64_t kernel,
                       int64_t stride, int64_t padding, int64_t width, int64_t channels);

    int64_t outputs() const { return weight.rows(); }
    int64_t row_in() const { return width_in * channels; }
    int64_t row_out() const { return width_out * outputs(); }

    /* What a row of output is the product of with the weight, from kernel_time rows of
     * input, NULL for one of zeros. out: (width_out, columns of the weight). */
    void gather(const float *const *rows, float *out) const;
};

/* The convolution of an utterance, as its rows arrive. */
class Conv2dStream {
  public:
    Conv2dStream(const Conv2d &conv, const Compute &compute)
        : conv_(conv), compute_(compute), rows_(conv.row_in()) {}
    /* Append the rows that x (n, row_in()) completes; relu applies max(0, y). */
    void push(const float *x, int64_t n, bool relu, Frames &out);
    void finish(bool relu, Frames &out);

  private:
    void emit(int64_t last, bool relu, Frames &out);

    const Conv2d &conv_;
    const Compute &compute_;
    Frames rows_;       /* input rows that are still needed */
    int64_t first_ = 0; /* time of the first of them */
    int64_t next_ = 0;  /* time of the next output */
    std::vector<float> space_;
};

}  // namespace asr

#endif
