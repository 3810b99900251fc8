/* AVX-512 with VNNI and VBMI (Ice Lake, Zen 4 and later). */
#if defined(__x86_64__)
#include "kernels/avx512.h"

#include <type_traits>

#include "instruction_set.h"
TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,fma")
#include "kernels/products_512.h"

namespace {

/* From 6 bits on a float is looked up byte by byte: four tables of bytes, whose results
 * are put together again. */
template <int BITS>
struct bytes_float_table {
    static constexpr int parts = BITS <= 6 ? 1 : BITS == 7 ? 2 : 4;
    __m512i part[4][parts];

    INLINE_MEMBER explicit bytes_float_table(const gq::tables *t) {
        for (int i = 0; i < 4; ++i)
            for (int k = 0; k < parts; ++k) part[i][k] = load64(t->byte[i] + 64 * k);
    }

    INLINE_MEMBER __m512i plane(int i, __m512i index, __mmask64 upper) const {
        if (BITS <= 6) return _mm512_permutexvar_epi8(index, part[i][0]);
        __m512i low = _mm512_permutex2var_epi8(part[i][0], index, part[i][parts > 1]);
        if (BITS == 7) return low;
        __m512i high =
            _mm512_permutex2var_epi8(part[i][parts - 2], index, part[i][parts - 1]);
        return _mm512_mask_blend_epi8(upper, low, high);
    }

    INLINE_MEMBER void look_up(__m512i index, __m512 (&w)[4]) const {
        /* Within 4 rows: bytes by column, then by row. */
        index = _mm512_shuffle_epi8(
            index, _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10,
                                                        14, 3, 7, 11, 15)));
        __mmask64 upper = BITS == 8 ? _mm512_movepi8_mask(index) : 0;
        __m512i p[4];
        for (int i = 0; i < 4; ++i) p[i] = plane(i, index, upper);
        __m512i low01 = _mm512_unpacklo_epi8(p[0], p[1]);
        __m512i high01 = _mm512_unpackhi_epi8(p[0], p[1]);
        __m512i low23 = _mm512_unpacklo_epi8(p[2], p[3]);
        __m512i high23 = _mm512_unpackhi_epi8(p[2], p[3]);
        w[0] = _mm512_castsi512_ps(_mm512_unpacklo_epi16(low01, low23));
        w[1] = _mm512_castsi512_ps(_mm512_unpackhi_epi16(low01, low23));
        w[2] = _mm512_castsi512_ps(_mm512_unpacklo_epi16(high01, high23));
        w[3] = _mm512_castsi512_ps(_mm512_unpackhi_epi16(high01, high23));
    }
};

template <int BITS>
using float_table = typename std::conditional<(BITS >= 6), bytes_float_table<BITS>,
                                              shifted_float_table<BITS>>::type;

struct int8_products {
    /* Codes plus 128, so that they are the unsigned operand of vpdpbusd. */
    template <int BITS>
    struct table {
        static constexpr int parts = BITS <= 6 ? 1 : BITS == 7 ? 2 : 4;
        __m512i part[parts];

        INLINE_MEMBER explicit table(const gq::tables *t) {
            for (int i = 0; i < parts; ++i)
                part[i] = _mm512_xor_si512(load64((const uint8_t *)t->code + 64 * i),
                                           _mm512_set1_epi8((char)0x80));
        }

        INLINE_MEMBER __m512i look_up(__m512i index) const {
            if (BITS <= 6) return _mm512_permutexvar_epi8(index, part[0]);
            __m512i low = _mm512_permutex2var_epi8(part[0], index, part[parts > 1]);
            if (BITS == 7) return low;
            __m512i high = _mm512_permutex2var_epi8(part[parts - 2], index, part[parts - 1]);
            return _mm512_mask_blend_epi8(_mm512_movepi8_mask(index), low, high);
        }
    };

    using operand = __m512i;

    INLINE __m512i add(__m512i sum, __m512i w, operand x) {
        return _mm512_dpbusd_epi32(sum, w, x);
    }

    INLINE __m512i finish(__m512i sum, int32_t total) {
        return _mm512_sub_epi32(sum, _mm512_set1_epi32(128 * total));
    }
};

}  // namespace
TARGET_END

using kernels = kernels_512<float_table, int8_products>;

/* With one `vpdpbusd` of 512 bits a cycle, loads are no bottleneck: there pairs of stripes
 * took 1.00 to 1.10 times as long. Where there are two a cycle, fewer loads should pay. */
constexpr gq::instruction_set gq::vnni_zen4 =
    gq::make_wide_instruction_set<kernels>("AVX-512 VNNI (Zen 4)", &gq::pass_avx512,
                                           false);

constexpr gq::instruction_set gq::vnni =
    gq::make_wide_instruction_set<kernels>("AVX-512 VNNI", &gq::pass_avx512, true);
#endif
