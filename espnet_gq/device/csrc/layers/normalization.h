/* Layer normalization: (x - mean) / sqrt(variance + epsilon) * gain + bias. */
#ifndef GQ_ASR_NORMALIZATION_H
#define GQ_ASR_NORMALIZATION_H

#include <string>

#include "file/loader.h"
#include "layers/loops.h"
#include "layers/matrix.h"

namespace asr {

struct LayerNorm {
    int64_t width = 0;
    const float *gain = nullptr, *bias = nullptr; /* (width) */
    float epsilon = 0.0f;

    /* The tensors NAME.gain, NAME.bias and NAME.epsilon. */
    static LayerNorm load(Loader &loader, const std::string &name, int64_t width) {
        LayerNorm norm;
        norm.width = width;
        norm.gain = loader.floats(name + ".gain", width);
        norm.bias = loader.floats(name + ".bias", width);
        norm.epsilon = *loader.floats(name + ".epsilon", 1);
        return norm;
    }

    /* x, out: (m, width); out may be x. */
    void apply(const Compute &compute, const float *x, int64_t m, float *out) const {
        loops(compute.isa).normalize(x, gain, bias, epsilon, m, width, out);
    }
};

}  // namespace asr

#endif
