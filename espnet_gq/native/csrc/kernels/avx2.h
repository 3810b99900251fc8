/* AVX2 with FMA: the target, its vectors and its look-up of floats.
 *
 *     look_up<BITS>(table, k) = table[k % 2^BITS]        8 lanes of 32 bits
 */
#ifndef ESPNET_GQ_AVX2_H
#define ESPNET_GQ_AVX2_H

#define GQ_LANES 8
#define GQ_AVX2 "avx2,fma"
#include <immintrin.h>

#include "target.h"
TARGET_BEGIN(GQ_AVX2)
#include "vector.h"

namespace {

template <int BITS>
INLINE __m256 look_up(const float *table, __m256i k) {
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

}  // namespace
TARGET_END

#endif
