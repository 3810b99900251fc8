/* AVX2 with FMA. A group is two vectors, rows 0 to 7 and 8 to 15: each half of a stripe
 * is passed over by itself, so that the sums of a tile stay in registers. */
#if defined(__x86_64__)
#include "kernels/avx2.h"

#include "instruction_set.h"
TARGET_BEGIN(GQ_AVX2)
#include "kernels/pointwise.h"

using namespace gq;

namespace {

enum { HALF = 32 }; /* bytes of a group that belong to 8 rows */

template <int... I>
using indices = std::integer_sequence<int, I...>;
using all_groups = std::make_integer_sequence<int, GROUPS>;
using all_columns = indices<0, 1, 2, 3>;

INLINE __m256i load32(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }

/* v shifted by N bits, up where N is negative: 16-bit elements, so that only bits that
 * a byte keeps are valid. */
template <int N>
INLINE __m256i shifted(__m256i v) {
    if (N > 0) return _mm256_srli_epi16(v, N > 0 ? N : 0);
    if (N < 0) return _mm256_slli_epi16(v, N < 0 ? -N : 0);
    return v;
}

/* Bits of a where the mask has ones, of b elsewhere. */
INLINE __m256i select_bits(int mask, __m256i a, __m256i b) {
    __m256i m = _mm256_set1_epi8((char)mask);
    return _mm256_or_si256(_mm256_and_si256(m, a), _mm256_andnot_si256(m, b));
}

/* The bytes of one half of group G, from a block + HALF * half: an index each, with
 * garbage above its bits. */
template <int BITS, int G>
INLINE __m256i group(const uint8_t *p) {
    constexpr int two = below(BITS, 2), one = below(BITS, 1);
    if (BITS & 8) return load32(p + GROUP_BYTES * G);
    __m256i index = _mm256_setzero_si256();
    if (BITS & 1) index = shifted<G - one>(load32(p + begin(BITS, 1)));
    if (BITS & 2) {
        __m256i low = shifted<2 * (G % 4) - two>(
            load32(p + begin(BITS, 2) + GROUP_BYTES * (G / 4)));
        index = (BITS & 1) ? select_bits((1 << one) - 1, low, index) : low;
    }
    if (BITS & 4) {
        __m256i low = shifted<4 * (G % 2)>(
            load32(p + begin(BITS, 4) + GROUP_BYTES * (G / 2)));
        index = (BITS & 3) ? select_bits(15, low, index) : low;
    }
    return index;
}

/* The centroids of 8 indices, column J of a group: bytes J of 32-bit elements. */
template <int BITS, int J>
INLINE __m256 column(const float *table, __m256i index) {
    return look_up<BITS>(table, _mm256_srli_epi32(index, 8 * J));
}

template <int M, int CHAINS>
INLINE void add_column(__m256 w, const float *x, int j, __m256 (&sum)[CHAINS][M]) {
    for (int m = 0; m < M; ++m)
        sum[j % CHAINS][m] =
            _mm256_fmadd_ps(w, _mm256_set1_ps(x[4 * m + j]), sum[j % CHAINS][m]);
}

template <int BITS, int M, int G, int CHAINS, int... J>
INLINE void add_group(const uint8_t *p, const float *table, const float *x,
                      __m256 (&sum)[CHAINS][M], indices<J...>) {
    __m256i index = group<BITS, G>(p);
    (add_column<M, CHAINS>(column<BITS, J>(table, index), x + 4 * G * M, J, sum), ...);
}

template <int BITS, int M, int CHAINS, int... G>
INLINE void add_block(const uint8_t *p, const float *table, const float *x,
                      __m256 (&sum)[CHAINS][M], indices<G...>) {
    (add_group<BITS, M, G>(p, table, x, sum, all_columns()), ...);
}

template <bool ADD, int M, int CHAINS>
INLINE void store_sums(__m256 (&sum)[CHAINS][M], float *out) {
    for (int m = 0; m < M; ++m) {
        __m256 total = sum[0][m];
        for (int i = 1; i < CHAINS; ++i) total = _mm256_add_ps(total, sum[i][m]);
        if (ADD) total = _mm256_add_ps(total, _mm256_loadu_ps(out + ROWS * m));
        _mm256_storeu_ps(out + ROWS * m, total);
    }
}

constexpr int chains(int m) { return m >= 4 ? 1 : 2; }

template <int BITS, int G, int... J>
INLINE void unpack_group(const uint8_t *p, const float *table, float *out,
                         indices<J...>) {
    __m256i index = group<BITS, G>(p);
    (_mm256_storeu_ps(out + (4 * G + J) * ROWS, column<BITS, J>(table, index)), ...);
}

template <int BITS, int... G>
INLINE void unpack_block(const uint8_t *p, const float *table, float *out,
                         indices<G...>) {
    (unpack_group<BITS, G>(p, table, out, all_columns()), ...);
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

template <int BITS, int M, int... G>
INLINE void add_codes(const uint8_t *p, const tables *t, const int8_t *x,
                      __m256i (&sum)[M], indices<G...>) {
    (add_products<M>(look_up_codes<BITS>(t, group<BITS, G>(p)), x + 4 * G * M, sum),
     ...);
}

template <int BITS, int... G>
INLINE void unpack_codes(const uint8_t *p, const tables *t, uint8_t *out,
                         indices<G...>) {
    (_mm256_storeu_si256((__m256i *)(out + GROUP_BYTES * G),
                         look_up_codes<BITS>(t, group<BITS, G>(p))),
     ...);
}

template <int M>
INLINE void store_int8(__m256i (&sum)[M], int32_t *out) {
    for (int m = 0; m < M; ++m) _mm256_storeu_si256((__m256i *)(out + ROWS * m), sum[m]);
}

struct kernels : pointwise {
    template <int BITS, int M>
    static void dot_float(const uint8_t *stripe, int64_t blocks, const tables *t,
                          const float *x, float *out) {
        for (int half = 0; half < 2; ++half) {
            __m256 sum[chains(M)][M] = {};
            const uint8_t *p = stripe + HALF * half;
            const float *from = x;
            for (int64_t i = 0; i < blocks; ++i, p += block_bytes(BITS), from += COLS * M)
                add_block<BITS, M>(p, t->value, from, sum, all_groups());
            store_sums<false, M, chains(M)>(sum, out + 8 * half);
        }
    }

    template <int BITS>
    static void values(const uint8_t *stripe, int64_t blocks, const tables *t,
                       float *out) {
        for (; blocks > 0; --blocks, stripe += block_bytes(BITS), out += VALUES)
            for (int half = 0; half < 2; ++half)
                unpack_block<BITS>(stripe + HALF * half, t->value, out + 8 * half,
                                   all_groups());
    }

    template <int M>
    static void dot_values(const float *values, int64_t blocks, const float *x, ahead_t,
                           float *out) {
        for (int half = 0; half < 2; ++half) {
            __m256 sum[chains(M)][M] = {};
            const float *w = values + 8 * half, *from = x;
            for (int64_t k = 0; k < blocks * COLS; k += 4, w += 4 * ROWS, from += 4 * M)
                for (int j = 0; j < 4; ++j)
                    add_column<M, chains(M)>(_mm256_loadu_ps(w + ROWS * j), from, j, sum);
            store_sums<true, M, chains(M)>(sum, out + 8 * half);
        }
    }

    template <int BITS, int M>
    static void dot_int8(const uint8_t *stripe, int64_t blocks, const tables *t,
                         const int8_t *x, const int32_t *, int32_t *out) {
        for (int half = 0; half < 2; ++half) {
            __m256i sum[M] = {};
            const uint8_t *p = stripe + HALF * half;
            const int8_t *from = x;
            for (int64_t i = 0; i < blocks; ++i, p += block_bytes(BITS), from += COLS * M)
                add_codes<BITS, M>(p, t, from, sum, all_groups());
            store_int8<M>(sum, out + 8 * half);
        }
    }

    template <int BITS>
    static void codes(const uint8_t *stripe, int64_t blocks, const tables *t,
                      uint8_t *out) {
        for (; blocks > 0; --blocks, stripe += block_bytes(BITS), out += VALUES)
            for (int half = 0; half < 2; ++half)
                unpack_codes<BITS>(stripe + HALF * half, t, out + HALF * half,
                                   all_groups());
    }

    template <int M>
    static void dot_codes(const uint8_t *codes, int64_t blocks, const int8_t *x,
                          const int32_t *, ahead_t, int32_t *out) {
        for (int half = 0; half < 2; ++half) {
            const uint8_t *w = codes + HALF * half;
            int32_t *to = out + 8 * half;
            __m256i sum[M];
            for (int m = 0; m < M; ++m) sum[m] = load32(to + ROWS * m);
            for (int64_t g = 0; g < GROUPS * blocks; ++g)
                add_products<M>(load32(w + GROUP_BYTES * g), x + 4 * g * M, sum);
            store_int8<M>(sum, to);
        }
    }

    static uint64_t read(const uint8_t *data, int64_t bytes) {
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
};

}  // namespace
TARGET_END

constexpr instruction_set gq::avx2 = make_instruction_set<kernels>("AVX2", &pass_avx2);
#endif
