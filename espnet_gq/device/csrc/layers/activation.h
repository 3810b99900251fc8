/* Functions of one value, applied to many. */
#ifndef GQ_ASR_ACTIVATION_H
#define GQ_ASR_ACTIVATION_H

#include <stdint.h>

#include <string>

#include "file/loader.h"

namespace asr {

enum class Activation { IDENTITY, RELU, TANH, SWISH, HARDTANH, SELU, GELU };

/* The activation that the setting `key` names. */
Activation load_activation(Loader &loader, const std::string &key);

/* In place. */
void activate(Activation activation, float *x, int64_t n);

}  // namespace asr

#endif
