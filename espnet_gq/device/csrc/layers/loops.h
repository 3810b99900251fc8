/* Inner loops over floats, one set per instruction set.
 *
 * Rows of `b` in `product` and of `values` in `depthwise` are read up to the next
 * multiple of 16 floats: memory of an Arena (arena.h) allows that.
 */
#ifndef GQ_ASR_LOOPS_H
#define GQ_ASR_LOOPS_H

#include <stdint.h>

#include "layers/activation.h"

namespace asr {

struct Loops {
    /* c[i, j] = sum_k a[i, k] b[k, j]. a: (m, depth) of row size lda, b: (depth, n) of
     * row size ldb, c: (m, n) of row size ldc. */
    void (*product)(const float *a, int64_t lda, const float *b, int64_t ldb, int64_t m,
                    int64_t n, int64_t depth, float *c, int64_t ldc);

    /* out[i, r] = bias[r] + sum_c w[r, c] x[i, c]. w: (rows, cols), x: (m, cols), bias:
     * (rows) or NULL, out: (m, rows). */
    void (*linear)(const float *w, const float *bias, const float *x, int64_t m,
                   int64_t rows, int64_t cols, float *out);

    /* out = (x - mean(x)) / sqrt(variance(x) + epsilon) * gain + bias of each row.
     * x, out: (m, n), out may be x; gain, bias: (n). */
    void (*normalize)(const float *x, const float *gain, const float *bias,
                      float epsilon, int64_t m, int64_t n, float *out);

    /* x = softmax((x + y) / divisor). x: (n), y: (n) or NULL. */
    void (*softmax)(float *x, const float *y, float divisor, int64_t n);

    /* x = f(x). x: (n). */
    void (*activate)(Activation f, float *x, int64_t n);

    /* out[i, j] = x[i, j] sigmoid(x[i, n + j]). x: (m, 2 n), out: (m, n). */
    void (*gate)(const float *x, int64_t m, int64_t n, float *out);

    /* out[i, j] = scale[j] sum_k w[k, j] x[i + k, j] + shift[j]. x: (m + taps - 1, n) of
     * row size ldx, w: (taps, n) of row size ldw, scale: (n) or NULL for ones, shift:
     * (n), out: (m, n) of row size ldo. */
    void (*depthwise)(const float *x, int64_t ldx, const float *w, int64_t ldw,
                      const float *scale, const float *shift, int64_t m, int64_t n,
                      int64_t taps, float *out, int64_t ldo);

    /* y += factor * x. x, y: (n). */
    void (*add)(float factor, const float *x, float *y, int64_t n);

    /* y *= x. x, y: (n). */
    void (*multiply)(const float *x, float *y, int64_t n);

    /* ln sum_j e^x[j]. x: (n); NaN where one is not a number. */
    float (*log_sum)(const float *x, int64_t n);
};

/* The loops for the instruction set number `isa` of api.h. */
const Loops &loops(int isa);

extern const Loops portable_loops;
#if defined(__x86_64__)
extern const Loops avx2_loops, avx512_loops;
#endif

}  // namespace asr

#endif
