/* Arithmetic of sizes. */
#ifndef ESPNET_GQ_SIZES_H
#define ESPNET_GQ_SIZES_H

#include <stdint.h>

namespace gq {

/* 2^48 keeps every product of sizes within 64 bits. */
constexpr int64_t MOST = (int64_t)1 << 48;

constexpr int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* n / d, rounded up. */
constexpr int64_t over(int64_t n, int64_t d) { return (n + d - 1) / d; }

}  // namespace gq

#endif
