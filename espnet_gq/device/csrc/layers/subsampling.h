/* Convolutions over time and frequency, each with max(0, y), and a linear layer: fewer
 * frames, as features arrive. */
#ifndef GQ_ASR_SUBSAMPLING_H
#define GQ_ASR_SUBSAMPLING_H

#include <vector>

#include "layers/arena.h"
#include "layers/conv2d.h"

namespace asr {

struct Subsampling {
    std::vector<Conv2d> convs;
    Matrix out;

    /* The settings encoder.conv.kernels and .strides, the matrices encoder.conv.0, ...
     * and encoder.conv.out, for `inputs` features. */
    static Subsampling load(Loader &loader, int64_t inputs, int64_t width);

    int64_t stride() const;
};

class SubsamplingStream {
  public:
    SubsamplingStream(const Subsampling &subsampling, const Compute &compute);
    /* Append the frames that features x (n, inputs) complete. */
    void push(const float *x, int64_t n, Frames &out);

  private:
    const Subsampling &subsampling_;
    const Compute &compute_;
    std::vector<Conv2dStream> convs_;
    std::vector<Frames> made_;
};

}  // namespace asr

#endif
