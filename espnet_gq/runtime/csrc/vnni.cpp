/* AVX-512 with VNNI and VBMI (Ice Lake, Zen 4 and later). */
#if defined(__x86_64__)
#include "kernels.h"
#include "planes.h"
#include "target.h"
#include <immintrin.h>
TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,fma")

namespace {
#define LANES 16
#include "pointwise.h"
#include "avx512.h"

/* Codes plus 128, so that they are the unsigned operand of vpdpbusd. */
template <int BITS>
struct code_table {
    static constexpr int parts = BITS <= 6 ? 1 : BITS == 7 ? 2 : 4;
    __m512i part[parts];

    INLINE_MEMBER explicit code_table(const tables *t) {
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

template <int M>
INLINE void add_products(__m512i w, const int8_t *x, __m512i (&sum)[M]) {
    for (int m = 0; m < M; ++m) {
        int32_t four;
        __builtin_memcpy(&four, x + 4 * m, 4);
        sum[m] = _mm512_dpbusd_epi32(sum[m], w, _mm512_set1_epi32(four));
    }
}

template <int M, int CHAINS>
INLINE void store_int8(__m512i (&sum)[CHAINS][M], const int32_t *total, int32_t *out) {
    for (int m = 0; m < M; ++m) {
        __m512i all = sum[0][m];
        for (int i = 1; i < CHAINS; ++i) all = _mm512_add_epi32(all, sum[i][m]);
        all = _mm512_sub_epi32(all, _mm512_set1_epi32(128 * total[m]));
        _mm512_storeu_si512(out + ROWS * m, all);
    }
}

#include "int8_512.h"
}  // namespace

#include "table.h"
extern "C" const instruction_set gq_vnni = INSTRUCTION_SET("AVX-512 VNNI");
TARGET_END
#endif
