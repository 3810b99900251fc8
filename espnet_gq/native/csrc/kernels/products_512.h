/* The products of both AVX-512 instruction sets.
 *
 *     kernels_512<FloatTable, Int8>
 *
 * FloatTable<BITS>(const tables *) keeps the centroids, and look_up(index, w) gives the
 * four columns of a group, w: (4) vectors of 16 rows. Int8 has
 *     table<BITS>(const tables *), whose look_up(index) gives the codes of a group,
 *     operand(x), made of 4 values, and add(sum, w, operand): sum + w x, w: (16, 4) codes,
 *     finish(sum, total): the sum of one row of x, which is `total`.
 * In an index there is garbage above its bits.
 */
#ifndef ESPNET_GQ_PRODUCTS_512_H
#define ESPNET_GQ_PRODUCTS_512_H

#include "instruction_set.h"
#include "kernels/avx512.h"
#include "kernels/pointwise.h"
#include "packed/layout.h"
#include "target.h"

namespace {

INLINE __m512i load64(const void *p) { return _mm512_loadu_si512(p); }

/* v itself. GCC loads an operand that instructions overwrite once for each of them, unless
 * it cannot know that it is the same. */
INLINE __m512i kept(__m512i v) {
#if !defined(__clang__)
    asm("" : "+v"(v));
#endif
    return v;
}

/* v shifted by N bits, up where N is negative: 16-bit elements, so that only bits that
 * a byte keeps are valid. */
template <int N>
INLINE __m512i shifted(__m512i v) {
    if (N > 0) return _mm512_srli_epi16(v, N > 0 ? N : 0);
    if (N < 0) return _mm512_slli_epi16(v, N < 0 ? -N : 0);
    return v;
}

/* 32-bit elements shifted down by N bits, of which the lowest 16 - N % 16 are valid.
 * Multiplications do not compete with permutations for the same units, as shifts do. */
template <int N>
INLINE __m512i moved_down(__m512i v) {
    if (N >= 16) v = _mm512_srli_epi32(v, 16);
    if (N % 16 == 0) return v;
    return _mm512_mulhi_epu16(v, _mm512_set1_epi16((short)(1 << (16 - N % 16))));
}

/* Bits of a where the mask has ones, of b elsewhere. */
INLINE __m512i select_bits(int mask, __m512i a, __m512i b) {
    return _mm512_ternarylogic_epi32(_mm512_set1_epi8((char)mask), a, b, 0xca);
}

/* KEEP: indices of 8 bits are loaded once, not three times. With one load of 512 bits a
 * cycle (Zen 4) a cached weight then takes 0.8 of the time, and one in memory 1.1. */
template <int BITS, bool KEEP = false>
struct block_t {
    __m512i p8[8], p4[4], p2[2], p1;

    INLINE_MEMBER explicit block_t(const uint8_t *p) {
        if (BITS & 8)
            for (int i = 0; i < 8; ++i) p8[i] = load64(p + 64 * i);
        if (BITS & 4)
            for (int i = 0; i < 4; ++i) p4[i] = load64(p + gq::begin(BITS, 4) + 64 * i);
        if (BITS & 2)
            for (int i = 0; i < 2; ++i) p2[i] = load64(p + gq::begin(BITS, 2) + 64 * i);
        if (BITS & 1) p1 = load64(p + gq::begin(BITS, 1));
    }

    /* The bytes of group G: an index each, with garbage above its bits. */
    template <int G>
    INLINE_MEMBER __m512i group() const {
        constexpr int two = gq::below(BITS, 2), one = gq::below(BITS, 1);
        __m512i index = _mm512_setzero_si512();
        if (BITS & 8) return KEEP ? kept(p8[G]) : p8[G];
        if (BITS & 1) index = shifted<G - one>(p1);
        if (BITS & 2) {
            __m512i low = shifted<2 * (G % 4) - two>(p2[G / 4]);
            index = (BITS & 1) ? select_bits((1 << one) - 1, low, index) : low;
        }
        if (BITS & 4) {
            __m512i low = shifted<4 * (G % 2)>(p4[G / 2]);
            index = (BITS & 3) ? select_bits(15, low, index) : low;
        }
        return index;
    }
};

/* Columns by shifts of 8 bits. */
template <int BITS>
struct shifted_float_table {
    const float *value;

    INLINE_MEMBER explicit shifted_float_table(const gq::tables *t) : value(t->value) {}

    INLINE_MEMBER void look_up(__m512i index, __m512 (&w)[4]) const {
        for (int j = 0; j < 4; ++j)
            w[j] = ::look_up<BITS>(value, _mm512_srli_epi32(index, 8 * j));
    }
};

/* Bytes between what is read and what is prefetched: a page, where the prefetching of
 * the processor ends. A tile of 8 rows still waits for memory without. */
enum { AHEAD = 4096 };

template <int BITS>
INLINE void prefetch(const uint8_t *block) {
    for (int i = 0; i < BITS; ++i)
        _mm_prefetch((const char *)block + AHEAD + 64 * i, _MM_HINT_T0);
}

template <int STRIPES>
INLINE void prefetch_lines(const gq::ahead_t &ahead, int line) {
    if (line < ahead.lines)
        for (int s = 0; s < STRIPES; ++s)
            _mm_prefetch((const char *)ahead.at[s] + 64 * line, _MM_HINT_T0);
}

template <int STRIPES>
INLINE void advance(gq::ahead_t &ahead) {
    for (int s = 0; s < STRIPES; ++s) ahead.at[s] += 64 * ahead.lines;
}

template <template <int> class FloatTable, class Int8>
struct kernels_512 : pointwise {
    template <int... G>
    using groups = std::integer_sequence<int, G...>;
    using all_groups = std::make_integer_sequence<int, gq::GROUPS>;

    /* Sums that are added up last: independent instructions fill the pipeline. */
    static constexpr int chains(int m) { return m >= 8 ? 1 : m >= 4 ? 2 : 4; }

    template <int M, int CHAINS>
    INLINE void add_columns(const __m512 (&w)[4], const float *x,
                            __m512 (&sum)[CHAINS][M]) {
        for (int j = 0; j < 4; ++j)
            for (int m = 0; m < M; ++m)
                sum[j % CHAINS][m] = _mm512_fmadd_ps(w[j], _mm512_set1_ps(x[4 * m + j]),
                                                     sum[j % CHAINS][m]);
    }

    template <int BITS, int M, int G, int CHAINS>
    INLINE void add_group(const block_t<BITS> &block, const FloatTable<BITS> &table,
                          const float *x, __m512 (&sum)[CHAINS][M]) {
        __m512 w[4];
        table.look_up(block.template group<G>(), w);
        add_columns<M>(w, x + 4 * G * M, sum);
    }

    template <int BITS, int M, int CHAINS, int... G>
    INLINE void add_block(const block_t<BITS> &block, const FloatTable<BITS> &table,
                          const float *x, __m512 (&sum)[CHAINS][M], groups<G...>) {
        (add_group<BITS, M, G>(block, table, x, sum), ...);
    }

    template <bool ADD, int M, int CHAINS>
    INLINE void store_sums(__m512 (&sum)[CHAINS][M], float *out) {
        for (int m = 0; m < M; ++m) {
            __m512 total = sum[0][m];
            for (int i = 1; i < CHAINS; ++i) total = _mm512_add_ps(total, sum[i][m]);
            if (ADD) total = _mm512_add_ps(total, _mm512_loadu_ps(out + gq::ROWS * m));
            _mm512_storeu_ps(out + gq::ROWS * m, total);
        }
    }

    template <int BITS, int M>
    static void dot_float(const uint8_t *stripe, int64_t blocks, const gq::tables *t,
                          const float *x, float *out) {
        const FloatTable<BITS> table(t);
        __m512 sum[chains(M)][M];
        for (auto &chain : sum)
            for (__m512 &s : chain) s = _mm512_setzero_ps();
        for (; blocks > 0;
             --blocks, stripe += gq::block_bytes(BITS), x += gq::COLS * M) {
            const block_t<BITS> block(stripe);
            prefetch<BITS>(stripe);
            add_block<BITS, M>(block, table, x, sum, all_groups());
        }
        store_sums<false>(sum, out);
    }

    /* Nibble k of a plane's dword: column 4 g + k / 2 of 4 / BITS groups g in turn. */
    template <int BITS>
    static void fill_sums(const float *x, int64_t n, const gq::tables *t, float *sums) {
        constexpr int EACH = 4 / BITS;
        __m512 value[EACH]; /* by the value of the nibble */
        const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13,
                                               14, 15);
        for (int i = 0; i < EACH; ++i) {
            __m512i index = _mm512_srl_epi32(lane, _mm_cvtsi32_si128(BITS * i));
            index = _mm512_and_si512(index, _mm512_set1_epi32((1 << BITS) - 1));
            value[i] = _mm512_permutexvar_ps(index, _mm512_loadu_ps(t->value));
        }
        for (int64_t first = 0; first < n; first += gq::COLS) {
            float block[gq::COLS] = {};
            const int64_t count = gq::least(n - first, gq::COLS);
            for (int64_t i = 0; i < count; ++i) block[i] = x[first + i];
            for (int plane = 0; plane < BITS; ++plane)
                for (int k = 0; k < 8; ++k, sums += 16) {
                    const int group = 8 / BITS * plane + EACH * (k % 2);
                    __m512 sum = _mm512_setzero_ps();
                    for (int i = 0; i < EACH; ++i)
                        sum = _mm512_fmadd_ps(
                            value[i], _mm512_set1_ps(block[4 * (group + i) + k / 2]), sum);
                    _mm512_storeu_ps(sums, sum);
                }
        }
    }

    /* Nibble K of some stripes. */
    template <int K, int N>
    INLINE void add_sums(const __m512i (&w)[N], const float *sums, __m512 (&sum)[2][N]) {
        const __m512 table = _mm512_loadu_ps(sums + 16 * K);
        for (int s = 0; s < N; ++s)
            sum[K % 2][s] = _mm512_add_ps(
                sum[K % 2][s],
                _mm512_permutexvar_ps(moved_down<4 * K>(w[s]), table));
    }

    template <int N, int... K>
    INLINE void add_all_sums(const __m512i (&w)[N], const float *sums,
                             __m512 (&sum)[2][N], groups<K...>) {
        (add_sums<K>(w, sums, sum), ...);
    }

    template <int BITS>
    static void dot_sums(const uint8_t *const *stripe, int64_t blocks, const float *sums,
                         float *out) {
        constexpr int N = gq::SHARING;
        const int64_t bytes = blocks * gq::block_bytes(BITS);
        /* What the next stripes will read, if it is not further away than usual. */
        const int64_t ahead = gq::least(AHEAD, N * bytes);
        __m512 sum[2][N];
        for (auto &chain : sum)
            for (__m512 &s : chain) s = _mm512_setzero_ps();
        for (int64_t at = 0; at < bytes; at += gq::GROUP_BYTES, sums += 8 * 16) {
            __m512i w[N];
            for (int s = 0; s < N; ++s) {
                w[s] = load64(stripe[s] + at);
                _mm_prefetch((const char *)stripe[s] + at + ahead, _MM_HINT_T0);
            }
            add_all_sums(w, sums, sum, all_groups());
        }
        store_sums<false>(sum, out);
    }

    template <int BITS, int G>
    INLINE void unpack_group(const block_t<BITS> &block, const FloatTable<BITS> &table,
                             float *out) {
        __m512 w[4];
        table.look_up(block.template group<G>(), w);
        for (int j = 0; j < 4; ++j) _mm512_storeu_ps(out + (4 * G + j) * gq::ROWS, w[j]);
    }

    template <int BITS, int... G>
    INLINE void unpack_block(const block_t<BITS> &block, const FloatTable<BITS> &table,
                             float *out, groups<G...>) {
        (unpack_group<BITS, G>(block, table, out), ...);
    }

    template <int BITS>
    static void values(const uint8_t *stripe, int64_t blocks, const gq::tables *t,
                       float *out) {
        const FloatTable<BITS> table(t);
        for (; blocks > 0; --blocks, stripe += gq::block_bytes(BITS), out += gq::VALUES)
            unpack_block<BITS>(block_t<BITS>(stripe), table, out, all_groups());
    }

    template <int M>
    static void dot_values(const float *values, int64_t blocks, const float *x,
                           gq::ahead_t ahead, float *out) {
        __m512 sum[chains(M)][M];
        for (auto &chain : sum)
            for (__m512 &s : chain) s = _mm512_setzero_ps();
        for (; blocks > 0; --blocks, advance<1>(ahead))
            for (int g = 0; g < gq::GROUPS; ++g, values += 4 * gq::ROWS, x += 4 * M) {
                prefetch_lines<1>(ahead, g);
                __m512 w[4];
                for (int j = 0; j < 4; ++j) w[j] = _mm512_loadu_ps(values + gq::ROWS * j);
                add_columns<M>(w, x, sum);
            }
        store_sums<true>(sum, out);
    }

    template <int BITS>
    using code_table = typename Int8::template table<BITS>;

    /* x: (m, 4), the same for each stripe. */
    template <int M, int CHAINS, int STRIPES>
    INLINE void add_products(const __m512i (&w)[STRIPES], const int8_t *x, int chain,
                             __m512i (&sum)[STRIPES][CHAINS][M]) {
        for (int m = 0; m < M; ++m) {
            int32_t four;
            __builtin_memcpy(&four, x + 4 * m, 4);
            const typename Int8::operand of_x(_mm512_set1_epi32(four));
            for (int s = 0; s < STRIPES; ++s)
                sum[s][chain][m] = Int8::add(sum[s][chain][m], w[s], of_x);
        }
    }

    template <int BITS, int M, bool KEEP, int CHAINS, int... G>
    INLINE void add_codes(const block_t<BITS, KEEP> &block, const code_table<BITS> &table,
                          const int8_t *x, __m512i (&sum)[1][CHAINS][M], groups<G...>) {
        (add_products<M>({table.look_up(block.template group<G>())}, x + 4 * G * M,
                         G % CHAINS, sum),
         ...);
    }

    template <int M, int CHAINS>
    INLINE void clear(__m512i (&sum)[CHAINS][M]) {
        for (auto &chain : sum)
            for (__m512i &s : chain) s = _mm512_setzero_si512();
    }

    template <bool ADD, int M, int CHAINS>
    INLINE void store_int8(__m512i (&sum)[CHAINS][M], const int32_t *total,
                           int32_t *out) {
        for (int m = 0; m < M; ++m) {
            __m512i all = sum[0][m];
            for (int i = 1; i < CHAINS; ++i) all = _mm512_add_epi32(all, sum[i][m]);
            all = Int8::finish(all, total[m]);
            if (ADD) all = _mm512_add_epi32(all, load64(out + gq::ROWS * m));
            _mm512_storeu_si512(out + gq::ROWS * m, all);
        }
    }

    template <int BITS, int M>
    static void dot_int8(const uint8_t *stripe, int64_t blocks, const gq::tables *t,
                         const int8_t *x, const int32_t *total, int32_t *out) {
        if (BITS == 8 && t->cached)
            dot_int8<BITS, M, BITS == 8>(stripe, blocks, t, x, total, out);
        else
            dot_int8<BITS, M, false>(stripe, blocks, t, x, total, out);
    }

    template <int BITS, int M, bool KEEP>
    INLINE void dot_int8(const uint8_t *stripe, int64_t blocks, const gq::tables *t,
                         const int8_t *x, const int32_t *total, int32_t *out) {
        const code_table<BITS> table(t);
        __m512i sum[1][chains(M)][M];
        clear(sum[0]);
        for (; blocks > 0;
             --blocks, stripe += gq::block_bytes(BITS), x += gq::COLS * M) {
            const block_t<BITS, KEEP> block(stripe);
            prefetch<BITS>(stripe);
            add_codes<BITS, M, KEEP>(block, table, x, sum, all_groups());
        }
        store_int8<false>(sum[0], total, out);
    }

    template <int BITS, int... G>
    INLINE void unpack_codes(const block_t<BITS> &block, const code_table<BITS> &table,
                             uint8_t *out, groups<G...>) {
        (_mm512_storeu_si512(out + gq::GROUP_BYTES * G,
                             table.look_up(block.template group<G>())),
         ...);
    }

    template <int BITS>
    static void codes(const uint8_t *stripe, int64_t blocks, const gq::tables *t,
                      uint8_t *out) {
        const code_table<BITS> table(t);
        for (; blocks > 0; --blocks, stripe += gq::block_bytes(BITS), out += gq::VALUES)
            unpack_codes<BITS>(block_t<BITS>(stripe), table, out, all_groups());
    }

    template <int M, int STRIPES = 1>
    static void dot_codes(const uint8_t *codes, int64_t blocks, const int8_t *x,
                          const int32_t *total, gq::ahead_t ahead, int32_t *out) {
        constexpr int CHAINS = chains(M * STRIPES);
        __m512i sum[STRIPES][CHAINS][M];
        for (auto &of_stripe : sum) clear(of_stripe);
        for (; blocks > 0; --blocks, advance<STRIPES>(ahead))
            for (int g = 0; g < gq::GROUPS; ++g, codes += gq::GROUP_BYTES, x += 4 * M) {
                prefetch_lines<STRIPES>(ahead, g);
                __m512i w[STRIPES];
                for (int s = 0; s < STRIPES; ++s)
                    w[s] = load64(codes + gq::CHUNK_BYTES * s);
                add_products<M>(w, x, g % CHAINS, sum);
            }
        for (int s = 0; s < STRIPES; ++s)
            store_int8<true>(sum[s], total, out + gq::TILE * gq::ROWS * s);
    }

    static uint64_t read(const uint8_t *data, int64_t bytes) {
        __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
        for (int64_t i = 0; i < bytes; i += 256) {
            a = _mm512_add_epi64(a, load64(data + i));
            b = _mm512_add_epi64(b, load64(data + i + 64));
            c = _mm512_add_epi64(c, load64(data + i + 128));
            d = _mm512_add_epi64(d, load64(data + i + 192));
        }
        a = _mm512_add_epi64(_mm512_add_epi64(a, b), _mm512_add_epi64(c, d));
        uint64_t words[8], sum = 0;
        _mm512_storeu_si512(words, a);
        for (uint64_t word : words) sum += word;
        return sum;
    }
};

}  // namespace

#endif
