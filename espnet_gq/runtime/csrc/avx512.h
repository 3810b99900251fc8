/* What the two AVX-512 instruction sets share: everything but the int8 products.
 *
 * Included under a target with AVX-512 F, BW, DQ and VL, in an anonymous namespace.
 */
#define INLINE static inline __attribute__((always_inline))

INLINE __m512i load64(const uint8_t *p) { return _mm512_loadu_si512(p); }

/* v shifted by n bits, up where n is negative: 16-bit elements, so that only bits that
 * a byte keeps are valid. */
template <int N>
INLINE __m512i shifted(__m512i v) {
    if (N > 0) return _mm512_srli_epi16(v, N > 0 ? N : 0);
    if (N < 0) return _mm512_slli_epi16(v, N < 0 ? -N : 0);
    return v;
}

/* Bits of a where the mask has ones, of b elsewhere. */
INLINE __m512i select_bits(int mask, __m512i a, __m512i b) {
    return _mm512_ternarylogic_epi32(_mm512_set1_epi8((char)mask), a, b, 0xca);
}

/* Bytes between what is read and what is asked for: a page, which the processor's own
 * prefetching ends at. */
enum { AHEAD = 4096 };

/* Ask for a block ahead of time: a tile of 8 rows still waits for memory. */
template <int BITS>
INLINE void prefetch(const uint8_t *block) {
    for (int i = 0; i < BITS; ++i)
        _mm_prefetch((const char *)block + AHEAD + 64 * i, _MM_HINT_T0);
}

template <int BITS>
struct block_t {
    __m512i p8[8], p4[4], p2[2], p1;

    INLINE_MEMBER explicit block_t(const uint8_t *p) {
        if (BITS & 8)
            for (int i = 0; i < 8; ++i) p8[i] = load64(p + 64 * i);
        if (BITS & 4)
            for (int i = 0; i < 4; ++i)
                p4[i] = load64(p + gq::begin(BITS, 4) + 64 * i);
        if (BITS & 2)
            for (int i = 0; i < 2; ++i)
                p2[i] = load64(p + gq::begin(BITS, 2) + 64 * i);
        if (BITS & 1) p1 = load64(p + gq::begin(BITS, 1));
    }

    /* The bytes of group G: an index each, with garbage above its bits. */
    template <int G>
    INLINE_MEMBER __m512i group() const {
        constexpr int two = gq::below(BITS, 2), one = gq::below(BITS, 1);
        __m512i index = _mm512_setzero_si512();
        if (BITS & 8) return p8[G];
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

/* The centroids of 16 indices that begin at bit SHIFT of 32-bit elements. */
template <int BITS, int SHIFT>
INLINE __m512 look_up(const float *table, __m512i index) {
    __m512i k = SHIFT ? _mm512_srli_epi32(index, SHIFT) : index;
    if (BITS <= 4) return _mm512_permutexvar_ps(k, _mm512_loadu_ps(table));
    constexpr int parts = BITS <= 5 ? 1 : 1 << (BITS - 5);
    __m512 part[parts];
    for (int i = 0; i < parts; ++i)
        part[i] = _mm512_permutex2var_ps(_mm512_loadu_ps(table + 32 * i), k,
                                         _mm512_loadu_ps(table + 32 * i + 16));
    for (int bit = 5; bit < BITS; ++bit) {
        __mmask16 upper = _mm512_test_epi32_mask(k, _mm512_set1_epi32(1 << bit));
        for (int i = 0; i < parts >> (bit - 4); ++i)
            part[i] = _mm512_mask_blend_ps(upper, part[2 * i], part[2 * i + 1]);
    }
    return part[0];
}

template <int M, int CHAINS>
INLINE void store_sums(__m512 (&sum)[CHAINS][M], float *out) {
    for (int m = 0; m < M; ++m) {
        __m512 total = sum[0][m];
        for (int i = 1; i < CHAINS; ++i) total = _mm512_add_ps(total, sum[i][m]);
        _mm512_storeu_ps(out + 16 * m, total);
    }
}

template <int BITS, int M, int G, int CHAINS>
INLINE void float_group(const block_t<BITS> &block, const float *table, const float *x,
                        __m512 (&sum)[CHAINS][M]) {
    __m512i index = block.template group<G>();
    __m512 w[4] = {look_up<BITS, 0>(table, index), look_up<BITS, 8>(table, index),
                   look_up<BITS, 16>(table, index), look_up<BITS, 24>(table, index)};
    for (int j = 0; j < 4; ++j)
        for (int m = 0; m < M; ++m)
            sum[j % CHAINS][m] = _mm512_fmadd_ps(
                w[j], _mm512_set1_ps(x[(4 * G) * M + 4 * m + j]), sum[j % CHAINS][m]);
}

template <int BITS, int M>
void dot_float(const uint8_t *stripe, int64_t blocks, const tables *t, const float *x,
               float *out) {
    constexpr int chains = M >= 8 ? 1 : M >= 4 ? 2 : 4;
    __m512 sum[chains][M];
    for (int i = 0; i < chains; ++i)
        for (int m = 0; m < M; ++m) sum[i][m] = _mm512_setzero_ps();
    for (; blocks > 0; --blocks, stripe += 64 * BITS, x += COLS * M) {
        const block_t<BITS> block(stripe);
        prefetch<BITS>(stripe);
        float_group<BITS, M, 0>(block, t->value, x, sum);
        float_group<BITS, M, 1>(block, t->value, x, sum);
        float_group<BITS, M, 2>(block, t->value, x, sum);
        float_group<BITS, M, 3>(block, t->value, x, sum);
        float_group<BITS, M, 4>(block, t->value, x, sum);
        float_group<BITS, M, 5>(block, t->value, x, sum);
        float_group<BITS, M, 6>(block, t->value, x, sum);
        float_group<BITS, M, 7>(block, t->value, x, sum);
    }
    store_sums<M, chains>(sum, out);
}

template <int BITS, int G>
INLINE void values_group(const block_t<BITS> &block, const float *table, float *out) {
    __m512i index = block.template group<G>();
    _mm512_storeu_ps(out + 64 * G, look_up<BITS, 0>(table, index));
    _mm512_storeu_ps(out + 64 * G + 16, look_up<BITS, 8>(table, index));
    _mm512_storeu_ps(out + 64 * G + 32, look_up<BITS, 16>(table, index));
    _mm512_storeu_ps(out + 64 * G + 48, look_up<BITS, 24>(table, index));
}

template <int BITS>
void values(const uint8_t *stripe, int64_t blocks, const tables *t, float *out) {
    for (; blocks > 0; --blocks, stripe += 64 * BITS, out += COLS * ROWS) {
        const block_t<BITS> block(stripe);
        values_group<BITS, 0>(block, t->value, out);
        values_group<BITS, 1>(block, t->value, out);
        values_group<BITS, 2>(block, t->value, out);
        values_group<BITS, 3>(block, t->value, out);
        values_group<BITS, 4>(block, t->value, out);
        values_group<BITS, 5>(block, t->value, out);
        values_group<BITS, 6>(block, t->value, out);
        values_group<BITS, 7>(block, t->value, out);
    }
}

template <int M>
void dot_values(const float *values, int64_t blocks, const float *x, ahead_t ahead,
                float *out) {
    constexpr int chains = M >= 8 ? 1 : M >= 4 ? 2 : 4;
    __m512 sum[chains][M];
    for (int i = 0; i < chains; ++i)
        for (int m = 0; m < M; ++m) sum[i][m] = _mm512_setzero_ps();
    for (; blocks > 0; --blocks, ahead.at += 64 * ahead.lines)
        for (int g = 0; g < 8; ++g, values += 4 * ROWS, x += 4 * M) {
            if (g < ahead.lines) _mm_prefetch((const char *)ahead.at + 64 * g, _MM_HINT_T0);
            for (int j = 0; j < 4; ++j) {
                __m512 w = _mm512_loadu_ps(values + ROWS * j);
                for (int m = 0; m < M; ++m)
                    sum[j % chains][m] = _mm512_fmadd_ps(
                        w, _mm512_set1_ps(x[4 * m + j]), sum[j % chains][m]);
            }
        }
    store_sums<M, chains>(sum, out);
}

uint64_t read_words(const uint8_t *data, int64_t bytes) {
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
