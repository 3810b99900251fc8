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
#include "quantizer/tables.h"

namespace gq {

struct pass {
    static constexpr int64_t BLOCK = 4096; /* weights in a block */

    const float *w;     /* (rows, cols) */
    const float *grad;  /* (rows, cols), NULL in the forward pass */
    float *out;         /* (rows, cols): quantized weights, or their gradient */
    const float *scale; /* (rows) or (1) */
    const float *inv_scale;
    double *sum_scale, *sum_mu; /* (blocks), backward only */
    int64_t rows, cols, blocks_per_row;
    bool per_row;
    pass_tables t;
};

/* Blocks `first` to `end - 1` of a pass. */
using blocks_t = void (*)(const pass &p, int64_t first, int64_t end);

/* The loops of one instruction set, by whether the pass is quick (tables.h) and by the
 * base-2 logarithm of the number of cells. */
struct quantizer_pass {
    blocks_t soft[2][9], hard[9], soft_gradient[9], hard_gradient[2][9];
};

extern const quantizer_pass pass_portable;
#if defined(__x86_64__)
extern const quantizer_pass pass_avx2, pass_avx512;
#endif

/* K: a class with the loops as static members, templates of the logarithm. */
template <class K, int... LOG2>
constexpr quantizer_pass make_pass(std::integer_sequence<int, LOG2...>) {
    return {{{K::template soft<LOG2, false>...}, {K::template soft<LOG2, true>...}},
            {K::template hard<LOG2>...},
            {K::template soft_gradient<LOG2>...},
            {{K::template hard_gradient<LOG2, false>...},
             {K::template hard_gradient<LOG2, true>...}}};
}

template <class K>
constexpr quantizer_pass make_pass() {
    return make_pass<K>(std::make_integer_sequence<int, 9>());
}

}  // namespace gq

#endif
