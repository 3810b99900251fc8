/* The convolution module of a Conformer:
 *
 *     y = W_out f(depthwise(gate(W_in x)))
 */
#ifndef GQ_ASR_CONV_MODULE_H
#define GQ_ASR_CONV_MODULE_H

#include <string>

#include "file/loader.h"
#include "layers/activation.h"
#include "layers/arena.h"
#include "layers/depthwise.h"
#include "layers/matrix.h"

namespace asr {

struct ConvModule {
    Matrix in, out; /* (2 * width, width), (width, width) */
    Depthwise depthwise;
    Activation activation = Activation::SWISH;

    /* The matrices NAME.in, NAME.depthwise and NAME.out. */
    static ConvModule load(Loader &loader, const std::string &name, int64_t width,
                           Activation activation);

    /* x, result: (n, width), not the same. past: the (taps - 1, width) gated rows before
     * x, which are replaced by the last ones; NULL of a convolution that looks as far
     * ahead as back, with zeros beyond both ends. */
    void apply(const Compute &compute, const float *x, int64_t n, float *past,
               Arena &arena, float *result) const;
};

}  // namespace asr

#endif
