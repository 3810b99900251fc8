/* NEON. A group is four vectors of 4 rows x 4 columns: each quarter of a stripe is
 * passed over by itself. */
#if defined(__aarch64__)
#include <arm_neon.h>

#include "instruction_set.h"
#include "kernels/pointwise.h"

using namespace gq;

namespace {

enum { QUARTER = 16, QUARTERS = 4 }; /* bytes of a group that belong to 4 rows */

/* 16 indices of group g, from a block + QUARTER * quarter. */
template <int BITS>
INLINE uint8x16_t group(const uint8_t *p, int g) {
    if (BITS & 8) return vld1q_u8(p + 64 * g);
    constexpr int parts[3] = {4, 2, 1};
    uint8x16_t index = vdupq_n_u8(0);
    for (int part : parts) {
        if (!(BITS & part)) continue;
        uint8x16_t v = vld1q_u8(p + begin(BITS, part) + 64 * (g * part / 8));
        v = vshlq_u8(v, vdupq_n_s8((int8_t) - (g * part % 8)));
        v = vandq_u8(v, vdupq_n_u8((uint8_t)((1 << part) - 1)));
        v = vshlq_u8(v, vdupq_n_s8((int8_t)below(BITS, part)));
        index = vorrq_u8(index, v);
    }
    return index;
}

/* The centroids of column j of a group's quarter. */
INLINE float32x4_t look_up(const float *table, uint8x16_t index, int j) {
    uint8_t k[16];
    vst1q_u8(k, index);
    const float w[4] = {table[k[j]], table[k[4 + j]], table[k[8 + j]], table[k[12 + j]]};
    return vld1q_f32(w);
}

template <int BITS>
INLINE int8x16_t look_up_codes(const tables *t, uint8x16_t index) {
    const uint8_t *code = (const uint8_t *)t->code;
    if (BITS <= 4) return vreinterpretq_s8_u8(vqtbl1q_u8(vld1q_u8(code), index));
    if (BITS == 5) {
        uint8x16x2_t two = {{vld1q_u8(code), vld1q_u8(code + 16)}};
        return vreinterpretq_s8_u8(vqtbl2q_u8(two, index));
    }
    uint8x16_t found = vdupq_n_u8(0); /* an index outside a table leaves it as it is */
    for (int i = 0; i < 1 << (BITS > 6 ? BITS - 6 : 0); ++i) {
        const uint8_t *from = code + 64 * i;
        uint8x16x4_t four = {{vld1q_u8(from), vld1q_u8(from + 16), vld1q_u8(from + 32),
                              vld1q_u8(from + 48)}};
        found = vqtbx4q_u8(found, four, vsubq_u8(index, vdupq_n_u8((uint8_t)(64 * i))));
    }
    return vreinterpretq_s8_u8(found);
}

template <int M>
INLINE void add_products(int8x16_t w, const int8_t *x, int32x4_t (&sum)[M]) {
    for (int m = 0; m < M; ++m) {
        int32_t four;
        __builtin_memcpy(&four, x + 4 * m, 4);
        int8x16_t a = vreinterpretq_s8_s32(vdupq_n_s32(four));
#if defined(__ARM_FEATURE_DOTPROD)
        sum[m] = vdotq_s32(sum[m], w, a);
#else
        int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(a)));
        int32x4_t high = vpaddlq_s16(vmull_high_s8(w, a));
        sum[m] = vaddq_s32(sum[m], vpaddq_s32(low, high));
#endif
    }
}

struct kernels : pointwise {
    template <int BITS, int M>
    static void dot_float(const uint8_t *stripe, int64_t blocks, const tables *t, const float *x,
                   float *out) {
        for (int quarter = 0; quarter < QUARTERS; ++quarter) {
            float32x4_t sum[M];
            for (int m = 0; m < M; ++m) sum[m] = vdupq_n_f32(0.0f);
            const uint8_t *p = stripe + QUARTER * quarter;
            const float *from = x;
            for (int64_t i = 0; i < blocks; ++i, p += block_bytes(BITS))
                for (int g = 0; g < 8; ++g, from += 4 * M) {
                    uint8x16_t index = group<BITS>(p, g);
                    for (int j = 0; j < 4; ++j) {
                        float32x4_t w = look_up(t->value, index, j);
                        for (int m = 0; m < M; ++m)
                            sum[m] = vfmaq_n_f32(sum[m], w, from[4 * m + j]);
                    }
                }
            for (int m = 0; m < M; ++m) vst1q_f32(out + ROWS * m + 4 * quarter, sum[m]);
        }
    }

    template <int BITS>
    static void values(const uint8_t *stripe, int64_t blocks, const tables *t, float *out) {
        for (; blocks > 0; --blocks, stripe += block_bytes(BITS), out += VALUES)
            for (int quarter = 0; quarter < QUARTERS; ++quarter)
                for (int g = 0; g < 8; ++g) {
                    uint8x16_t index = group<BITS>(stripe + QUARTER * quarter, g);
                    for (int j = 0; j < 4; ++j)
                        vst1q_f32(out + (4 * g + j) * ROWS + 4 * quarter,
                                  look_up(t->value, index, j));
                }
    }

    template <int M>
    static void dot_values(const float *values, int64_t blocks, const float *x, ahead_t,
                    float *out) {
        for (int quarter = 0; quarter < QUARTERS; ++quarter) {
            float32x4_t sum[M];
            for (int m = 0; m < M; ++m) sum[m] = vdupq_n_f32(0.0f);
            const float *w = values + 4 * quarter, *from = x;
            for (int64_t k = 0; k < blocks * COLS; k += 4, w += 4 * ROWS, from += 4 * M)
                for (int j = 0; j < 4; ++j)
                    for (int m = 0; m < M; ++m)
                        sum[m] =
                            vfmaq_n_f32(sum[m], vld1q_f32(w + ROWS * j), from[4 * m + j]);
            for (int m = 0; m < M; ++m) {
                float *to = out + ROWS * m + 4 * quarter;
                vst1q_f32(to, vaddq_f32(sum[m], vld1q_f32(to)));
            }
        }
    }

    template <int BITS, int M>
    static void dot_int8(const uint8_t *stripe, int64_t blocks, const tables *t, const int8_t *x,
                  const int32_t *, int32_t *out) {
        for (int quarter = 0; quarter < QUARTERS; ++quarter) {
            int32x4_t sum[M];
            for (int m = 0; m < M; ++m) sum[m] = vdupq_n_s32(0);
            const uint8_t *p = stripe + QUARTER * quarter;
            const int8_t *from = x;
            for (int64_t i = 0; i < blocks; ++i, p += block_bytes(BITS))
                for (int g = 0; g < 8; ++g, from += 4 * M)
                    add_products<M>(look_up_codes<BITS>(t, group<BITS>(p, g)), from, sum);
            for (int m = 0; m < M; ++m) vst1q_s32(out + ROWS * m + 4 * quarter, sum[m]);
        }
    }

    template <int BITS>
    static void codes(const uint8_t *stripe, int64_t blocks, const tables *t, uint8_t *out) {
        for (; blocks > 0; --blocks, stripe += block_bytes(BITS), out += VALUES)
            for (int i = 0; i < 8 * QUARTERS; ++i) {
                const uint8_t *p = stripe + QUARTER * (i % QUARTERS);
                vst1q_u8(out + QUARTER * i,
                         vreinterpretq_u8_s8(
                             look_up_codes<BITS>(t, group<BITS>(p, i / QUARTERS))));
            }
    }

    template <int M>
    static void dot_codes(const uint8_t *codes, int64_t blocks, const int8_t *x,
                          const int32_t *, ahead_t, int32_t *out) {
        for (int quarter = 0; quarter < QUARTERS; ++quarter) {
            const uint8_t *w = codes + QUARTER * quarter;
            int32_t *to = out + 4 * quarter;
            int32x4_t sum[M];
            for (int m = 0; m < M; ++m) sum[m] = vld1q_s32(to + ROWS * m);
            for (int64_t g = 0; g < GROUPS * blocks; ++g)
                add_products<M>(vreinterpretq_s8_u8(vld1q_u8(w + GROUP_BYTES * g)),
                                x + 4 * g * M, sum);
            for (int m = 0; m < M; ++m) vst1q_s32(to + ROWS * m, sum[m]);
        }
    }

    static uint64_t read(const uint8_t *data, int64_t bytes) {
        uint64x2_t a = vdupq_n_u64(0), b = a;
        for (int64_t i = 0; i < bytes; i += 32) {
            a = vaddq_u64(a, vreinterpretq_u64_u8(vld1q_u8(data + i)));
            b = vaddq_u64(b, vreinterpretq_u64_u8(vld1q_u8(data + i + 16)));
        }
        return vaddvq_u64(vaddq_u64(a, b));
    }
};

}  // namespace

constexpr instruction_set gq::neon = make_instruction_set<kernels>("NEON", &pass_portable);
#endif
