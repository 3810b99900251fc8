/* A weight matrix in the model file, packed or float, and its products.
 *
 *     out[i, r] = bias[r] + sum_c w[r, c] x[i, c]
 */
#ifndef GQ_ASR_MATRIX_H
#define GQ_ASR_MATRIX_H

#include <stdint.h>

#include "api.h"

namespace asr {

/* How a stream computes. */
struct Compute {
    int mode = GQ_INT8; /* or GQ_EXACT */
    int threads = 1;
    int isa = 0;
    mutable int failed = 0; /* status of the first kernel that failed, see api.h */

    void check(int status) const {
        if (status && !failed) failed = status;
    }
};

struct Matrix {
    gq_weight packed = {}; /* rows, cols and bias; planes are NULL of a float matrix */
    const float *values = nullptr; /* (rows, cols) of a float matrix */

    int64_t rows() const { return packed.rows; }
    int64_t cols() const { return packed.cols; }
    bool is_packed() const { return packed.planes != nullptr; }

    /* x: (m, cols), out: (m, rows). */
    void apply(const Compute &compute, const float *x, int64_t m, float *out) const;
    /* The same in exact mode, whatever the mode of the stream. */
    void apply_exactly(const Compute &compute, const float *x, int64_t m,
                       float *out) const;
    /* Row number `row`, below rows(), without the bias: out (cols). */
    void row(const Compute &compute, int64_t row, float *out) const;
    /* The mode that this matrix computes in. */
    int mode(const Compute &compute) const;
};

/* sum_i a[i] b[i], n terms. */
float dot(const float *a, const float *b, int64_t n);

}  // namespace asr

#endif
