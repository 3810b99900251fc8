/* A convolution over time of each channel by itself, and a scale and shift of each:
 *
 *     y[t, c] = gain[c] sum_k w[c, k] x[t + k, c] + shift[c]
 */
#ifndef GQ_ASR_DEPTHWISE_H
#define GQ_ASR_DEPTHWISE_H

#include <string>

#include "file/loader.h"
#include "layers/arena.h"
#include "layers/matrix.h"

namespace asr {

struct Depthwise {
    Matrix weight;               /* (channels, taps) */
    const float *gain = nullptr; /* (channels), NULL for ones */
    const float *shift = nullptr;

    int64_t channels() const { return weight.rows(); }
    int64_t taps() const { return weight.cols(); }

    /* The matrix NAME, its number of taps odd. Shift is the matrix's bias, or with
     * `affine` gain and shift are the tensors NAME.gain and NAME.shift. */
    static Depthwise load(Loader &loader, const std::string &name, int64_t channels,
                          bool affine);

    /* The weights, (taps, channels) with rows of ld(), valid within the arena's scope. */
    const float *unpack(const Compute &compute, Arena &arena) const;
    int64_t ld() const { return (channels() + 15) / 16 * 16; }

    /* x: (n + taps - 1, channels) of row size ldx; out: (n, channels) of ldo. */
    void apply(const Compute &compute, const float *unpacked, const float *x, int64_t ldx,
               int64_t n, float *out, int64_t ldo) const;
};

}  // namespace asr

#endif
