/* The fused pass of the quantizer over a float32 weight matrix.
 *
 *     out[r, i] = s[r] * sum_j p_j c[j]    (soft),    s[r] * c[nearest]    (hard)
 *
 * for w: (rows, cols); the mathematics and names are those of quantizer/assignment.py.
 * Work is cut into blocks of one row or a part of it. Sums are taken block by block and
 * added in order, so results do not depend on the number of threads.
 */
#ifndef ESPNET_GQ_PASS_H
#define ESPNET_GQ_PASS_H

#include <stdint.h>

#include <utility>

#include "api.h"

namespace gq {

struct pass {
    static constexpr int64_t BLOCK = 4096; /* weights in a block */
    /* Padding on both sides, and room to read past the end. */
    static constexpr int TABLE = 256 + 64;

    const float *w;     /* (rows, cols) */
    const float *grad;  /* (rows, cols), NULL in the forward pass */
    float *out;         /* (rows, cols): quantized weights, or their gradient */
    const float *scale; /* (rows) or (1) */
    const float *inv_scale;
    double *sum_scale, *sum_mu; /* (blocks), backward only */
    int64_t rows, cols, blocks_per_row;
    float alpha, q2; /* q2 = exp(-2 alpha), 0 below e^-87 */
    bool per_row;
    float c[TABLE], dc[TABLE]; /* centroid j is c[j + 1]; dc = d c / d ln mu */
    float coarse[64];          /* the centroids, every 2^(bits-5)-th above 5 bits */
};

/* Blocks `first` to `end - 1` of a pass. */
using blocks_t = void (*)(const pass &p, int64_t first, int64_t end);

/* The loops of one instruction set, by mode and by bits - 1. */
struct quantizer_pass {
    blocks_t forward[2][8], backward[2][8];
};

extern const quantizer_pass pass_portable;
#if defined(__x86_64__)
extern const quantizer_pass pass_avx2, pass_avx512;
#endif

/* K: a class with the loops as static members, templates of bits and mode. */
template <class K, int... BIT>
constexpr quantizer_pass make_pass(std::integer_sequence<int, BIT...>) {
    return {{{K::template forward<BIT + 1, GQ_SOFT>...},
             {K::template forward<BIT + 1, GQ_HARD>...}},
            {{K::template backward<BIT + 1, GQ_SOFT>...},
             {K::template backward<BIT + 1, GQ_HARD>...}}};
}

template <class K>
constexpr quantizer_pass make_pass() {
    return make_pass<K>(std::make_integer_sequence<int, 8>());
}

}  // namespace gq

#endif
