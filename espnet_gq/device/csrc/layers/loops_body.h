/* The loops of loops.h, for vectors of vector.h. */
#ifndef GQ_ASR_LOOPS_BODY_H
#define GQ_ASR_LOOPS_BODY_H

#include <stdint.h>

#include "layers/loops.h"
#include "target.h"
#include "vector.h"

namespace {

using asr::Activation;

/* Vectors side by side, and rows, whose sums stay in registers. */
constexpr int WIDE = LANES == 16 ? 4 : 2;
constexpr int HIGH = 4;

INLINE vf exponential_of(vf x) { return exponential<true>(x); }
INLINE vf sigmoid_of(vf x) { return 1.0f / (1.0f + exponential_of(-x)); }
INLINE vf fused(vf a, vf b, vf c) { return multiply_add<true>(a, b, c); }
INLINE vf larger(vf a, vf b) { return a < b ? b : a; } /* a if either is not a number */
INLINE vf smaller(vf a, vf b) { return a > b ? b : a; }

INLINE float largest(const float *x, int64_t n) {
    vf most = splat(x[0]);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) most = larger(most, load(x + i));
    float found = most[0];
    for (int k = 1; k < LANES; ++k) found = found < most[k] ? most[k] : found;
    for (; i < n; ++i) found = found < x[i] ? x[i] : found;
    return found;
}

/* erf to 1.5e-7: Abramowitz and Stegun, 7.1.26. */
INLINE vf error_function(vf x) {
    vf size = x < splat(0.0f) ? -x : x;
    vf t = 1.0f / (1.0f + 0.3275911f * size);
    vf p = splat(1.061405429f);
    p = fused(p, t, splat(-1.453152027f));
    p = fused(p, t, splat(1.421413741f));
    p = fused(p, t, splat(-0.284496736f));
    p = fused(p, t, splat(0.254829592f));
    vf value = 1.0f - p * t * exponential_of(-size * size);
    return x < splat(0.0f) ? -value : value;
}

/* tanh, also of small values. */
INLINE vf tangent(vf x) {
    vf z = x * x;
    vf p = splat(-5.70498872745e-3f);
    p = fused(p, z, splat(2.06390887954e-2f));
    p = fused(p, z, splat(-5.37397155531e-2f));
    p = fused(p, z, splat(1.33314422036e-1f));
    p = fused(p, z, splat(-3.33332819422e-1f));
    vf near_zero = fused(x * z, p, x);
    vf far = 1.0f - 2.0f / (exponential_of(x + x) + 1.0f);
    return z < splat(0.390625f) ? near_zero : far;
}

template <Activation F>
INLINE vf apply(vf x) {
    const vf zero = splat(0.0f);
    if (F == Activation::RELU) return x < zero ? zero : x;
    if (F == Activation::SWISH) return x * sigmoid_of(x);
    if (F == Activation::TANH) return tangent(x);
    if (F == Activation::HARDTANH) return smaller(larger(x, splat(-1.0f)), splat(1.0f));
    if (F == Activation::SELU) {
        const vf alpha = splat(1.6732632423543772f);
        vf below = alpha * (exponential_of(x) - 1.0f);
        return 1.0507009873554805f * (x > zero ? x : below);
    }
    if (F == Activation::GELU)
        return 0.5f * x * (1.0f + error_function(x * 0.70710678118654752f));
    return x;
}

/* R rows of c, of `n` columns, at most V vectors. */
template <int R, int V>
INLINE void product_tile(const float *a, int64_t lda, const float *b, int64_t ldb,
                         int64_t depth, int64_t n, float *c, int64_t ldc) {
    vf total[R][V] = {};
    for (int64_t k = 0; k < depth; ++k) {
        vf part[V];
        for (int v = 0; v < V; ++v) part[v] = load(b + k * ldb + v * LANES);
        for (int r = 0; r < R; ++r) {
            vf factor = splat(a[r * lda + k]);
            for (int v = 0; v < V; ++v)
                total[r][v] = fused(factor, part[v], total[r][v]);
        }
    }
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v)
            store_part(c + r * ldc + v * LANES, total[r][v], n - v * LANES);
}

template <int V>
INLINE void product_columns(const float *a, int64_t lda, const float *b, int64_t ldb,
                            int64_t m, int64_t depth, int64_t n, float *c,
                            int64_t ldc) {
    int64_t i = 0;
    for (; i + HIGH <= m; i += HIGH)
        product_tile<HIGH, V>(a + i * lda, lda, b, ldb, depth, n, c + i * ldc, ldc);
    for (; i < m; ++i)
        product_tile<1, V>(a + i * lda, lda, b, ldb, depth, n, c + i * ldc, ldc);
}

/* R rows of x with S rows of w. */
template <int R, int S>
INLINE void linear_tile(const float *w, const float *bias, const float *x, int64_t rows,
                        int64_t cols, float *out) {
    vf total[R][S] = {};
    for (int64_t k = 0; k < cols; k += LANES) {
        const int64_t left = cols - k;
        vf part[S];
        for (int s = 0; s < S; ++s) part[s] = load_part(w + s * cols + k, left);
        for (int r = 0; r < R; ++r) {
            vf value = load_part(x + r * cols + k, left);
            for (int s = 0; s < S; ++s)
                total[r][s] = fused(value, part[s], total[r][s]);
        }
    }
    for (int r = 0; r < R; ++r)
        for (int s = 0; s < S; ++s)
            out[r * rows + s] = sum(total[r][s]) + (bias ? bias[s] : 0.0f);
}

template <int S>
INLINE void linear_rows(const float *w, const float *bias, const float *x, int64_t m,
                        int64_t rows, int64_t cols, float *out) {
    int64_t i = 0;
    for (; i + HIGH <= m; i += HIGH)
        linear_tile<HIGH, S>(w, bias, x + i * cols, rows, cols, out + i * rows);
    for (; i < m; ++i)
        linear_tile<1, S>(w, bias, x + i * cols, rows, cols, out + i * rows);
}

/* R outputs of one vector of channels, of which `left` are stored. */
template <int R>
INLINE void depthwise_tile(const float *x, int64_t ldx, const float *w, int64_t ldw,
                           vf scale, vf shift, int64_t taps, float *out, int64_t ldo,
                           int64_t left) {
    vf total[R] = {};
    for (int64_t k = 0; k < taps; ++k) {
        vf factor = load(w + k * ldw);
        for (int r = 0; r < R; ++r)
            total[r] = fused(factor, load(x + (r + k) * ldx), total[r]);
    }
    for (int r = 0; r < R; ++r)
        store_part(out + r * ldo, fused(total[r], scale, shift), left);
}

struct loops_of {
    static void product(const float *a, int64_t lda, const float *b, int64_t ldb,
                        int64_t m, int64_t n, int64_t depth, float *c, int64_t ldc) {
        int64_t j = 0;
        for (; j + WIDE * LANES <= n; j += WIDE * LANES)
            product_columns<WIDE>(a, lda, b + j, ldb, m, depth, n - j, c + j, ldc);
        for (; j < n; j += LANES)
            product_columns<1>(a, lda, b + j, ldb, m, depth, n - j, c + j, ldc);
    }

    static void linear(const float *w, const float *bias, const float *x, int64_t m,
                       int64_t rows, int64_t cols, float *out) {
        int64_t r = 0;
        for (; r + 4 <= rows; r += 4)
            linear_rows<4>(w + r * cols, bias ? bias + r : nullptr, x, m, rows, cols,
                           out + r);
        for (; r < rows; ++r)
            linear_rows<1>(w + r * cols, bias ? bias + r : nullptr, x, m, rows, cols,
                           out + r);
    }

    static void normalize(const float *x, const float *gain, const float *bias,
                          float epsilon, int64_t m, int64_t n, float *out) {
        for (int64_t i = 0; i < m; ++i, x += n, out += n) {
            vf total = {};
            for (int64_t k = 0; k < n; k += LANES) total += load_part(x + k, n - k);
            const float mean = sum(total) / (float)n;
            vf squares = {};
            int64_t k = 0;
            for (; k + LANES <= n; k += LANES) {
                vf d = load(x + k) - mean;
                squares = fused(d, d, squares);
            }
            float variance = sum(squares);
            for (int64_t j = k; j < n; ++j) variance += (x[j] - mean) * (x[j] - mean);
            const float scale = 1.0f / __builtin_sqrtf(variance / (float)n + epsilon);
            for (k = 0; k < n; k += LANES) {
                const int64_t left = n - k;
                vf value = (load_part(x + k, left) - mean) * scale;
                value = fused(value, load_part(gain + k, left),
                              load_part(bias + k, left));
                store_part(out + k, value, left);
            }
        }
    }

    static void softmax(float *x, const float *y, float divisor, int64_t n) {
        for (int64_t i = 0; i < n; i += LANES) {
            vf value = load_part(x + i, n - i);
            if (y) value += load_part(y + i, n - i);
            store_part(x + i, value / divisor, n - i);
        }
        const float most = largest(x, n);
        vf totals = {};
        int64_t i = 0;
        for (; i + LANES <= n; i += LANES) {
            vf value = exponential_of(load(x + i) - most);
            totals += value;
            store(x + i, value);
        }
        float total = sum(totals);
        if (i < n) {
            vf value = exponential_of(load_part(x + i, n - i) - most);
            store_part(x + i, value, n - i);
            for (int64_t j = i; j < n; ++j) total += x[j];
        }
        const float factor = 1.0f / total;
        for (i = 0; i < n; i += LANES)
            store_part(x + i, load_part(x + i, n - i) * factor, n - i);
    }

    template <Activation F>
    static void activate_with(float *x, int64_t n) {
        for (int64_t i = 0; i < n; i += LANES)
            store_part(x + i, apply<F>(load_part(x + i, n - i)), n - i);
    }

    static void activate(Activation f, float *x, int64_t n) {
        switch (f) {
            case Activation::IDENTITY: return;
            case Activation::RELU: return activate_with<Activation::RELU>(x, n);
            case Activation::SWISH: return activate_with<Activation::SWISH>(x, n);
            case Activation::TANH: return activate_with<Activation::TANH>(x, n);
            case Activation::HARDTANH: return activate_with<Activation::HARDTANH>(x, n);
            case Activation::SELU: return activate_with<Activation::SELU>(x, n);
            case Activation::GELU: return activate_with<Activation::GELU>(x, n);
        }
    }

    static void gate(const float *x, int64_t m, int64_t n, float *out) {
        for (int64_t i = 0; i < m; ++i, x += 2 * n, out += n)
            for (int64_t k = 0; k < n; k += LANES) {
                const int64_t left = n - k;
                vf open = sigmoid_of(load_part(x + n + k, left));
                store_part(out + k, load_part(x + k, left) * open, left);
            }
    }

    static void depthwise(const float *x, int64_t ldx, const float *w, int64_t ldw,
                          const float *scale, const float *shift, int64_t m, int64_t n,
                          int64_t taps, float *out, int64_t ldo) {
        constexpr int R = LANES == 16 ? 8 : 6;
        for (int64_t j = 0; j < n; j += LANES) {
            const int64_t left = n - j;
            vf by = scale ? load_part(scale + j, left) : splat(1.0f);
            vf to = load_part(shift + j, left);
            int64_t i = 0;
            for (; i + R <= m; i += R)
                depthwise_tile<R>(x + i * ldx + j, ldx, w + j, ldw, by, to, taps,
                                  out + i * ldo + j, ldo, left);
            for (; i < m; ++i)
                depthwise_tile<1>(x + i * ldx + j, ldx, w + j, ldw, by, to, taps,
                                  out + i * ldo + j, ldo, left);
        }
    }

    static void add(float factor, const float *x, float *y, int64_t n) {
        for (int64_t i = 0; i < n; i += LANES) {
            const int64_t left = n - i;
            vf value = factor * load_part(x + i, left) + load_part(y + i, left);
            store_part(y + i, value, left);
        }
    }

    static void multiply(const float *x, float *y, int64_t n) {
        for (int64_t i = 0; i < n; i += LANES) {
            const int64_t left = n - i;
            store_part(y + i, load_part(x + i, left) * load_part(y + i, left), left);
        }
    }

    static float log_sum(const float *x, int64_t n) {
        const float most = largest(x, n);
        vf totals = {};
        int64_t i = 0;
        for (; i + LANES <= n; i += LANES) totals += exponential_of(load(x + i) - most);
        double total = sum(totals);
        for (; i < n; ++i) total += __builtin_exp((double)x[i] - most);
        return (float)(__builtin_log(total) + most);
    }
};

constexpr asr::Loops MADE = {
    loops_of::product,  loops_of::linear, loops_of::normalize,
    loops_of::softmax,  loops_of::activate, loops_of::gate,
    loops_of::depthwise, loops_of::add,   loops_of::multiply,
    loops_of::log_sum};

}  // namespace

#endif
