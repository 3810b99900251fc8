#include "layers/activation.h"

#include "layers/loops.h"

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
    {"hardtanh", Activation::HARDTANH},
    {"selu", Activation::SELU},
    {"gelu", Activation::GELU},
};

}  // namespace

Activation load_activation(Loader &loader, const std::string &key) {
    const std::string name = loader.text(key);
    for (const auto &one : ACTIVATIONS)
        if (name == one.name) return one.activation;
    loader.refuse("has an unknown function gqasr.%s; allowed: identity, relu, tanh, swish, "
                  "hardtanh, selu, gelu",
                  key.c_str());
    return Activation::IDENTITY;
}

void activate(Activation activation, float *x, int64_t n) {
    loops(0).activate(activation, x, n);
}

}  // namespace asr
