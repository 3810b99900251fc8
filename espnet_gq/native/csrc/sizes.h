/* Arithmetic of sizes. */
#ifndef ESPNET_GQ_SIZES_H
#define ESPNET_GQ_SIZES_H

#include <stdint.h>

namespace gq {

constexpr int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* n / d, rounded up. */
constexpr int64_t over(int64_t n, int64_t d) { return (n + d - 1) / d; }

}  // namespace gq

#endif
