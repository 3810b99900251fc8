/* AVX2 with FMA. A group is two vectors, rows 0 to 7 and 8 to 15: each half of a stripe
 * is passed over by itself, so that the sums of a tile stay in registers. */
#if defined(__x86_64__)
#include "kernels.h"
#include "planes.h"
#include "target.h"
#include <immintrin.h>
TARGET_BEGIN("avx2,fma")

namespace {
#define LANES 8
#include "pointwise.h"
#define INLINE static inline __attribute__((always_inline))

enum { HALF = 32 }; /* bytes of a group that belong to 8 rows */

INLINE __m256i load32(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }

/* As in avx512.h: only bits that a byte keeps are valid. */
template <int N>
INLINE __m256i shifted(__m256i v) {
    if (N > 0) return _mm256_srli_epi16(v, N > 0 ? N : 0);
    if (N < 0) return _mm256_slli_epi16(v, N < 0 ? -N : 0);
    return v;
}

INLINE __m256i select_bits(int mask, __m256i a, __m256i b) {
    __m256i m = _mm256_set1_epi8((char)mask);
    return _mm256_or_si256(_mm256_and_si256(m, a), _mm256_andnot_si256(m, b));
}

/* The bytes of one half of group G, from a block + HALF * half: an index each, with
 * garbage above its bits. */
template <int BITS, int G>
INLINE __m256i group(const uint8_t *p) {
    constexpr int two = gq::below(BITS, 2), one = gq::below(BITS, 1);
    if (BITS & 8) return load32(p + 64 * G);
    __m256i index = _mm256_setzero_si256();
    if (BITS & 1) index = shifted<G - one>(load32(p + gq::begin(BITS, 1)));
    if (BITS & 2) {
        __m256i low = shifted<2 * (G % 4) - two>(
            load32(p + gq::begin(BITS, 2) + 64 * (G / 4)));
        index = (BITS & 1) ? select_bits((1 << one) - 1, low, index) : low;
    }
    if (BITS & 4) {
        __m256i low = shifted<4 * (G % 2)>(
            load32(p + gq::begin(BITS, 4) + 64 * (G / 2)));
        index = (BITS & 3) ? select_bits(15, low, index) : low;
    }
    return index;
}

/* The centroids of 8 indices that begin at bit SHIFT of 32-bit elements. */
template <int BITS, int SHIFT>
INLINE __m256 look_up(const float *table, __m256i index) {
    __m256i k = _mm256_srli_epi32(index, SHIFT);
    if (BITS > 5)
        return _mm256_i32gather_ps(
            table, _mm256_and_si256(k, _mm256_set1_epi32((1 << BITS) - 1)), 4);
    constexpr int parts = BITS <= 3 ? 1 : BITS == 4 ? 2 : 4;
    __m256 part[parts];
    for (int i = 0; i < parts; ++i)
        part[i] = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8 * i), k);
    for (int bit = 3; bit < BITS && bit < 5; ++bit) { /* a blend looks at the sign */
        __m256 upper = _mm256_castsi256_ps(_mm256_slli_epi32(k, 31 - bit));
        for (int i = 0; i < parts >> (bit - 2); ++i)
            part[i] = _mm256_blendv_ps(part[2 * i], part[2 * i + 1], upper);
    }
    return part[0];
}

template <int M, int CHAINS>
INLINE void add_column(__m256 w, const float *x, int j, __m256 (&sum)[CHAINS][M]) {
    for (int m = 0; m < M; ++m)
        sum[j % CHAINS][m] =
            _mm256_fmadd_ps(w, _mm256_set1_ps(x[4 * m + j]), sum[j % CHAINS][m]);
}

template <int BITS, int M, int G, int CHAINS>
INLINE void float_group(const uint8_t *p, const float *table, const float *x,
                        __m256 (&sum)[CHAINS][M]) {
    __m256i index = group<BITS, G>(p);
    x += 4 * G * M;
    add_column<M, CHAINS>(look_up<BITS, 0>(table, index), x, 0, sum);
    add_column<M, CHAINS>(look_up<BITS, 8>(table, index), x, 1, sum);
    add_column<M, CHAINS>(look_up<BITS, 16>(table, index), x, 2, sum);
    add_column<M, CHAINS>(look_up<BITS, 24>(table, index), x, 3, sum);
}

template <int M, int CHAINS>
INLINE void store_sums(__m256 (&sum)[CHAINS][M], float *out) {
    for (int m = 0; m < M; ++m) {
        __m256 total = sum[0][m];
        for (int i = 1; i < CHAINS; ++i) total = _mm256_add_ps(total, sum[i][m]);
        _mm256_storeu_ps(out + ROWS * m, total);
    }
}

constexpr int chains(int m) { return m >= 4 ? 1 : 2; }

template <int BITS, int M>
void dot_float(const uint8_t *stripe, int64_t blocks, const tables *t, const float *x,
               float *out) {
    for (int half = 0; half < 2; ++half) {
        __m256 sum[chains(M)][M] = {};
        const uint8_t *p = stripe + HALF * half;
        const float *from = x;
        for (int64_t i = 0; i < blocks; ++i, p += 64 * BITS, from += COLS * M) {
            float_group<BITS, M, 0>(p, t->value, from, sum);
            float_group<BITS, M, 1>(p, t->value, from, sum);
            float_group<BITS, M, 2>(p, t->value, from, sum);
            float_group<BITS, M, 3>(p, t->value, from, sum);
            float_group<BITS, M, 4>(p, t->value, from, sum);
            float_group<BITS, M, 5>(p, t->value, from, sum);
            float_group<BITS, M, 6>(p, t->value, from, sum);
            float_group<BITS, M, 7>(p, t->value, from, sum);
        }
        store_sums<M, chains(M)>(sum, out + 8 * half);
    }
}

template <int BITS, int G>
INLINE void values_group(const uint8_t *p, const float *table, float *out) {
    __m256i index = group<BITS, G>(p);
    out += 4 * G * ROWS;
    _mm256_storeu_ps(out, look_up<BITS, 0>(table, index));
    _mm256_storeu_ps(out + ROWS, look_up<BITS, 8>(table, index));
    _mm256_storeu_ps(out + 2 * ROWS, look_up<BITS, 16>(table, index));
    _mm256_storeu_ps(out + 3 * ROWS, look_up<BITS, 24>(table, index));
}

template <int BITS>
void values(const uint8_t *stripe, int64_t blocks, const tables *t, float *out) {
    for (; blocks > 0; --blocks, stripe += 64 * BITS, out += COLS * ROWS)
        for (int half = 0; half < 2; ++half) {
            const uint8_t *p = stripe + HALF * half;
            float *to = out + 8 * half;
            values_group<BITS, 0>(p, t->value, to);
            values_group<BITS, 1>(p, t->value, to);
            values_group<BITS, 2>(p, t->value, to);
            values_group<BITS, 3>(p, t->value, to);
            values_group<BITS, 4>(p, t->value, to);
            values_group<BITS, 5>(p, t->value, to);
            values_group<BITS, 6>(p, t->value, to);
            values_group<BITS, 7>(p, t->value, to);
        }
}

template <int M>
void dot_values(const float *values, int64_t blocks, const float *x, ahead_t,
                float *out) {
    for (int half = 0; half < 2; ++half) {
        __m256 sum[chains(M)][M] = {};
        const float *w = values + 8 * half, *from = x;
        for (int64_t k = 0; k < blocks * COLS; k += 4, w += 4 * ROWS, from += 4 * M)
            for (int j = 0; j < 4; ++j)
                add_column<M, chains(M)>(_mm256_loadu_ps(w + ROWS * j), from, j, sum);
        store_sums<M, chains(M)>(sum, out + 8 * half);
    }
}

template <int BITS>
INLINE __m256i look_up_codes(const tables *t, __m256i index) {
    constexpr int parts = BITS <= 4 ? 1 : 1 << (BITS - 4);
    __m256i low = _mm256_and_si256(index, _mm256_set1_epi8(15)), found[parts];
    for (int i = 0; i < parts; ++i)
        found[i] = _mm256_shuffle_epi8(
            _mm256_broadcastsi128_si256(
                _mm_loadu_si128((const __m128i *)(t->code + 16 * i))),
            low);
    for (int bit = 4; bit < BITS; ++bit) { /* a blend looks at bit 7 of each byte */
        __m256i upper = _mm256_slli_epi16(index, 7 - bit);
        for (int i = 0; i < parts >> (bit - 3); ++i)
            found[i] = _mm256_blendv_epi8(found[2 * i], found[2 * i + 1], upper);
    }
    return found[0];
}

/* |x| times w with the sign of x: with both at most 127 no pair overflows 16 bits. */
template <int M>
INLINE void add_products(__m256i w, const int8_t *x, __m256i (&sum)[M]) {
    for (int m = 0; m < M; ++m) {
        int32_t four;
        __builtin_memcpy(&four, x + 4 * m, 4);
        __m256i a = _mm256_set1_epi32(four);
        __m256i pairs =
            _mm256_maddubs_epi16(_mm256_abs_epi8(a), _mm256_sign_epi8(w, a));
        sum[m] = _mm256_add_epi32(sum[m],
                                  _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
}

template <int M>
INLINE void store_int8(__m256i (&sum)[M], int32_t *out) {
    for (int m = 0; m < M; ++m) _mm256_storeu_si256((__m256i *)(out + ROWS * m), sum[m]);
}

template <int BITS, int M, int G>
INLINE void int8_group(const uint8_t *p, const tables *t, const int8_t *x,
                       __m256i (&sum)[M]) {
    add_products<M>(look_up_codes<BITS>(t, group<BITS, G>(p)), x + 4 * G * M, sum);
}

template <int BITS, int M>
void dot_int8(const uint8_t *stripe, int64_t blocks, const tables *t, const int8_t *x,
              const int32_t *, int32_t *out) {
    for (int half = 0; half < 2; ++half) {
        __m256i sum[M] = {};
        const uint8_t *p = stripe + HALF * half;
        const int8_t *from = x;
        for (int64_t i = 0; i < blocks; ++i, p += 64 * BITS, from += COLS * M) {
            int8_group<BITS, M, 0>(p, t, from, sum);
            int8_group<BITS, M, 1>(p, t, from, sum);
            int8_group<BITS, M, 2>(p, t, from, sum);
            int8_group<BITS, M, 3>(p, t, from, sum);
            int8_group<BITS, M, 4>(p, t, from, sum);
            int8_group<BITS, M, 5>(p, t, from, sum);
            int8_group<BITS, M, 6>(p, t, from, sum);
            int8_group<BITS, M, 7>(p, t, from, sum);
        }
        store_int8<M>(sum, out + 8 * half);
    }
}

template <int BITS, int G>
INLINE void codes_group(const uint8_t *p, const tables *t, uint8_t *out) {
    _mm256_storeu_si256((__m256i *)(out + 64 * G),
                        look_up_codes<BITS>(t, group<BITS, G>(p)));
}

template <int BITS>
void codes(const uint8_t *stripe, int64_t blocks, const tables *t, uint8_t *out) {
    for (; blocks > 0; --blocks, stripe += 64 * BITS, out += COLS * ROWS)
        for (int half = 0; half < 2; ++half) {
            const uint8_t *p = stripe + HALF * half;
            uint8_t *to = out + HALF * half;
            codes_group<BITS, 0>(p, t, to);
            codes_group<BITS, 1>(p, t, to);
            codes_group<BITS, 2>(p, t, to);
            codes_group<BITS, 3>(p, t, to);
            codes_group<BITS, 4>(p, t, to);
            codes_group<BITS, 5>(p, t, to);
            codes_group<BITS, 6>(p, t, to);
            codes_group<BITS, 7>(p, t, to);
        }
}

template <int M>
void dot_codes(const uint8_t *codes, int64_t blocks, const int8_t *x, const int32_t *,
               ahead_t, int32_t *out) {
    for (int half = 0; half < 2; ++half) {
        __m256i sum[M] = {};
        for (int64_t g = 0; g < 8 * blocks; ++g)
            add_products<M>(load32(codes + 64 * g + HALF * half), x + 4 * g * M, sum);
        store_int8<M>(sum, out + 8 * half);
    }
}

uint64_t read_words(const uint8_t *data, int64_t bytes) {
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
    for (int64_t i = 0; i < bytes; i += 128) {
        a = _mm256_add_epi64(a, load32(data + i));
        b = _mm256_add_epi64(b, load32(data + i + 32));
        c = _mm256_add_epi64(c, load32(data + i + 64));
        d = _mm256_add_epi64(d, load32(data + i + 96));
    }
    a = _mm256_add_epi64(_mm256_add_epi64(a, b), _mm256_add_epi64(c, d));
    uint64_t words[4];
    _mm256_storeu_si256((__m256i *)words, a);
    return words[0] + words[1] + words[2] + words[3];
}
}  // namespace

#include "table.h"
extern "C" const instruction_set gq_avx2 = INSTRUCTION_SET("AVX2");
TARGET_END
#endif
