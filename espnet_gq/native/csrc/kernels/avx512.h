/* AVX-512 F, BW, DQ and VL: the target, its vectors and its look-up of floats.
 *
 *     look_up<BITS>(table, k) = table[k % 2^BITS]        16 lanes of 32 bits
 *
 * It permutes and blends, which is several times faster than a gather.
 */
#ifndef ESPNET_GQ_AVX512_H
#define ESPNET_GQ_AVX512_H

#define GQ_LANES 16
#define GQ_AVX512 "avx512f,avx512bw,avx512dq,avx512vl,fma"
/* GCC 12 and older warn of its own intrinsics' undefined operands (GCC bug 105593). */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include "target.h"
TARGET_BEGIN(GQ_AVX512)
#include "vector.h"

namespace {

template <int BITS>
INLINE __m512 look_up(const float *table, __m512i k) {
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

}  // namespace
TARGET_END

#endif
