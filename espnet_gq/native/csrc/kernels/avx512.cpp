/* AVX-512 without VNNI and VBMI (Skylake-X). */
#if defined(__x86_64__)
#include "kernels/avx512.h"

#include "instruction_set.h"
TARGET_BEGIN(GQ_AVX512)
#include "kernels/products_512.h"

namespace {

struct int8_products {
    template <int BITS>
    struct table {
        static constexpr int parts = BITS <= 4 ? 1 : 1 << (BITS - 4);
        __m512i part[parts];

        INLINE_MEMBER explicit table(const gq::tables *t) {
            for (int i = 0; i < parts; ++i)
                part[i] = _mm512_broadcast_i32x4(
                    _mm_loadu_si128((const __m128i *)(t->code + 16 * i)));
        }

        INLINE_MEMBER __m512i look_up(__m512i index) const {
            __m512i low = _mm512_and_si512(index, _mm512_set1_epi8(15)), found[parts];
            for (int i = 0; i < parts; ++i) found[i] = _mm512_shuffle_epi8(part[i], low);
            for (int bit = 4; bit < BITS; ++bit) {
                __mmask64 upper =
                    _mm512_test_epi8_mask(index, _mm512_set1_epi8((char)(1 << bit)));
                for (int i = 0; i < parts >> (bit - 3); ++i)
                    found[i] =
                        _mm512_mask_blend_epi8(upper, found[2 * i], found[2 * i + 1]);
            }
            return found[0];
        }
    };

    /* |x| times w with the sign of x: with both at most 127 no pair overflows 16 bits. */
    struct operand {
        __m512i magnitude;
        __mmask64 negative;

        INLINE_MEMBER explicit operand(__m512i x)
            : magnitude(_mm512_abs_epi8(x)), negative(_mm512_movepi8_mask(x)) {}
    };

    INLINE __m512i add(__m512i sum, __m512i w, const operand &x) {
        w = _mm512_mask_sub_epi8(w, x.negative, _mm512_setzero_si512(), w);
        __m512i pairs = _mm512_maddubs_epi16(x.magnitude, w);
        return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
    }

    INLINE __m512i finish(__m512i sum, int32_t) { return sum; }
};

}  // namespace
TARGET_END

constexpr gq::instruction_set gq::avx512 =
    gq::make_wide_instruction_set<kernels_512<shifted_float_table, int8_products>>(
        "AVX-512", &gq::pass_avx512, true);
#endif
