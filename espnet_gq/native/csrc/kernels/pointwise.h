/* Element-wise mathematics of the recurrent layers, and the rounding of activations: the
 * same values on every instruction set.
 *
 *     c' = sigmoid(f) c + sigmoid(i) tanh(g),  h' = sigmoid(o) tanh(c')        LSTM
 *     h' = n + z (h - n),  n = tanh(n_x + sigmoid(r) n_h),  z = sigmoid(z)     GRU
 *
 * The functions and shapes are those of instruction_set.h. Storing a product's results
 * belongs here too.
 */
#ifndef ESPNET_GQ_POINTWISE_H
#define ESPNET_GQ_POINTWISE_H

#include <stdint.h>

#include "instruction_set.h"
#include "packed/layout.h"
#include "sizes.h"
#include "target.h"
#include "vector.h"

namespace {

INLINE vf sigmoid(vf x) { return 1.0f / (1.0f + exponential(-x)); }

INLINE vf hyperbolic_tangent(vf x) {
    vf z = x * x;
    vf p = splat(-5.70498872745e-3f);
    p = p * z + 2.06390887954e-2f;
    p = p * z - 5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z - 3.33332819422e-1f;
    vf near_zero = x + x * z * p;
    vf far = 1.0f - 2.0f / (exponential(x + x) + 1.0f);
    return z < splat(0.390625f) ? near_zero : far;
}

INLINE void lstm_units(vf i, vf f, vf g, vf o, vf *c, vf *h) {
    *c = sigmoid(f) * *c + sigmoid(i) * hyperbolic_tangent(g);
    *h = sigmoid(o) * hyperbolic_tangent(*c);
}

INLINE vf gru_units(const vf *in, const vf *hidden, vf h) {
    vf r = sigmoid(in[0] + hidden[0]), z = sigmoid(in[1] + hidden[1]);
    vf n = hyperbolic_tangent(in[2] + r * hidden[2]);
    return n + z * (h - n);
}

struct pointwise {
    static void lstm(const float *gates, float *c, float *h, int64_t n) {
        const float *i = gates, *f = i + n, *g = f + n, *o = g + n;
        for (int64_t k = 0; k < n; k += LANES) {
            int64_t left = n - k;
            vf state = load_part(c + k, left), out;
            lstm_units(load_part(i + k, left), load_part(f + k, left),
                       load_part(g + k, left), load_part(o + k, left), &state, &out);
            store_part(c + k, state, left);
            store_part(h + k, out, left);
        }
    }

    static void gru(const float *input, const float *hidden, float *h, int64_t n) {
        for (int64_t k = 0; k < n; k += LANES) {
            int64_t left = n - k;
            vf in[3], hid[3];
            for (int gate = 0; gate < 3; ++gate) {
                in[gate] = load_part(input + gate * n + k, left);
                hid[gate] = load_part(hidden + gate * n + k, left);
            }
            store_part(h + k, gru_units(in, hid, load_part(h + k, left)), left);
        }
    }

    static float round_row(const float *x, int64_t n, int64_t m, int8_t *q,
                           int32_t *total) {
        vi most = {};
        for (int64_t k = 0; k < n; k += LANES) {
            vi magnitude = (vi)load_part(x + k, n - k) & 0x7fffffff;
            most = magnitude > most ? magnitude : most;
        }
        int32_t bits = 0;
        for (int i = 0; i < LANES; ++i) bits = most[i] > bits ? most[i] : bits;
        vi as_vector = vi{} + bits;
        float largest = ((vf)as_vector)[0];
        bool finite = bits < 0x7f800000;
        /* Below 2^-120 the inverse would overflow: such rows count as 0. */
        float inverse = finite && largest > 7.5e-37f ? 127.0f / largest : 0.0f;
        const vf shift = splat(12582912.0f);
        vi sum = {};
        int64_t padded = gq::over(n, gq::COLS) * gq::COLS;
        for (int64_t k = 0; k < padded; k += LANES) {
            vf v = finite ? load_part(x + k, n - k) : vf{};
            vi rounded = (vi)(v * inverse + shift) - (vi)shift;
            sum += rounded;
            auto bytes = __builtin_convertvector(rounded, vb);
            for (int i = 0; i < LANES; i += 4)
                __builtin_memcpy(q + (k + i) * m, (const char *)&bytes + i, 4);
        }
        *total = 0;
        for (int i = 0; i < LANES; ++i) *total += sum[i];
        if (!finite) return __builtin_nanf("");
        return inverse == 0.0f ? 0.0f : largest / 127.0f;
    }

    static void store_values(const gq::result_t &to, const float *sum) {
        for (int64_t i = 0; i < to.n; ++i, sum += gq::ROWS)
            for (int r = 0; r < to.rows; r += LANES)
                store_part(to.out + i * to.ld + r,
                           load(to.bias + r) + load(sum + r) * load(to.scale + r),
                           to.rows - r);
    }

    static void store_codes(const gq::result_t &to, const int32_t *sum,
                            const float *unit, float unit_of_codes) {
        for (int64_t i = 0; i < to.n; ++i, sum += gq::ROWS) {
            vf both = splat(unit[i] * unit_of_codes);
            for (int r = 0; r < to.rows; r += LANES) {
                vf value = __builtin_convertvector(*(const vi *)(sum + r), vf);
                store_part(to.out + i * to.ld + r,
                           load(to.bias + r) + value * (both * load(to.scale + r)),
                           to.rows - r);
            }
        }
    }
};

}  // namespace

#endif
