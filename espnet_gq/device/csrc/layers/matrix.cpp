#include "layers/matrix.h"

#include <string.h>

namespace asr {

namespace {

/* Most columns whose int8 products fit into 32 bits, see api.h. */
enum { INT8_COLS = 1 << 16 };

void multiply(const Compute &compute, const Matrix &w, const float *x, int64_t m,
              float *out, int mode) {
    if (m == 0) return;
    if (w.is_packed()) {
        compute.check(gq_linear(&w.packed, x, m, out, mode, compute.threads, compute.isa));
        return;
    }
    const int64_t rows = w.rows(), cols = w.cols();
    for (int64_t r = 0; r < rows; ++r) { /* each row of w is read once */
        float bias = w.packed.bias ? w.packed.bias[r] : 0.0f;
        for (int64_t i = 0; i < m; ++i)
            out[i * rows + r] = bias + dot(w.values + r * cols, x + i * cols, cols);
    }
}

}  // namespace

float dot(const float *a, const float *b, int64_t n) {
    enum { LANES = 16 };
    float sum[LANES] = {};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int k = 0; k < LANES; ++k) sum[k] += a[i + k] * b[i + k];
    for (int k = 0; i < n; ++i, ++k) sum[k] += a[i] * b[i];
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int k = 0; k < half; ++k) sum[k] += sum[k + half];
    return sum[0];
}

int Matrix::mode(const Compute &compute) const {
    return cols() > INT8_COLS ? GQ_EXACT : compute.mode;
}

void Matrix::apply(const Compute &compute, const float *x, int64_t m, float *out) const {
    multiply(compute, *this, x, m, out, mode(compute));
}

void Matrix::apply_exactly(const Compute &compute, const float *x, int64_t m,
                           float *out) const {
    multiply(compute, *this, x, m, out, GQ_EXACT);
}

void Matrix::row(const Compute &compute, int64_t row, float *out) const {
    if (is_packed())
        compute.check(gq_rows(&packed, &row, 1, out));
    else
        memcpy(out, values + row * cols(), (size_t)cols() * sizeof *out);
}

}  // namespace asr
