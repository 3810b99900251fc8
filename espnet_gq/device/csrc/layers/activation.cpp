#include "layers/activation.h"

#include <math.h>

namespace asr {

namespace {

const struct {
    const char *name;
    Activation activation;
} ACTIVATIONS[] = {
    {"identity", Activation::IDENTITY},
    {"relu", Activation::RELU},
    {"tanh", Activation::TANH},
    {"swish", Activation::SWISH},
};

}  // namespace

Activation load_activation(Loader &loader, const std::string &key) {
    const std::string name = loader.text(key);
    for (const auto &one : ACTIVATIONS)
        if (name == one.name) return one.activation;
    loader.refuse("has an unknown function gqasr.%s; allowed: identity, relu, tanh, swish",
                  key.c_str());
    return Activation::IDENTITY;
}

void activate(Activation activation, float *x, int64_t n) {
    switch (activation) {
        case Activation::IDENTITY: break;
        case Activation::RELU:
            for (int64_t i = 0; i < n; ++i) x[i] = x[i] > 0.0f ? x[i] : 0.0f;
            break;
        case Activation::TANH:
            for (int64_t i = 0; i < n; ++i) x[i] = tanhf(x[i]);
            break;
        case Activation::SWISH:
            for (int64_t i = 0; i < n; ++i) x[i] = x[i] / (1.0f + expf(-x[i]));
            break;
    }
}

}  // namespace asr
