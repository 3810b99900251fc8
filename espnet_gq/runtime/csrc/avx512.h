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
INLINE __m512 centroids(const float *table, __m512i index) {
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

/* The columns of a group: 4 vectors of 16 rows. */
template <int BITS>
struct plain_float_table {
    const float *value;

    INLINE_MEMBER explicit plain_float_table(const tables *t) : value(t->value) {}

    INLINE_MEMBER void look_up(__m512i index, __m512 (&w)[4]) const {
        w[0] = centroids<BITS, 0>(value, index);
        w[1] = centroids<BITS, 8>(value, index);
        w[2] = centroids<BITS, 16>(value, index);
        w[3] = centroids<BITS, 24>(value, index);
    }
};
