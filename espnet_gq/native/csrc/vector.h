/* Vectors of GQ_LANES floats: loading, storing, choosing, e^x.
 *
 * A file of a wider instruction set defines GQ_LANES and opens its target before it
 * includes this. Nothing here rounds otherwise on one instruction set than on another,
 * but for multiply_add<true>.
 */
#ifndef ESPNET_GQ_VECTOR_H
#define ESPNET_GQ_VECTOR_H

#include <stdint.h>

#include "target.h"

#ifndef GQ_LANES
#define GQ_LANES 4
#endif
#if GQ_LANES > 4
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace {

constexpr int LANES = GQ_LANES;

typedef float vf __attribute__((vector_size(4 * GQ_LANES), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(4 * GQ_LANES), aligned(4), may_alias));
typedef int8_t vb __attribute__((vector_size(GQ_LANES)));

INLINE vf load(const float *p) { return *(const vf *)p; }
INLINE void store(float *p, vf v) { *(vf *)p = v; }
INLINE vf splat(float value) { return vf{} + value; }

/* The first n values at p, at most LANES of them, then zeros. */
INLINE vf load_part(const float *p, int64_t n) {
    if (n >= LANES) return load(p);
    vf v = {};
    for (int64_t i = 0; i < n; ++i) v[i] = p[i];
    return v;
}

/* The first n values of v, at most LANES of them. */
INLINE void store_part(float *p, vf v, int64_t n) {
    if (n >= LANES) return store(p, v);
    for (int64_t i = 0; i < n; ++i) p[i] = v[i];
}

/* The smaller and the greater of two values, b where one of them is a NaN. */
INLINE vf least(vf a, vf b) {
#if GQ_LANES == 16
    return (vf)_mm512_min_ps((__m512)a, (__m512)b);
#elif GQ_LANES == 8
    return (vf)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return a < b ? a : b;
#endif
}

INLINE vf greatest(vf a, vf b) {
#if GQ_LANES == 16
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif GQ_LANES == 8
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return a > b ? a : b;
#endif
}

INLINE float sum(vf v) {
    float total = 0.0f;
    for (int i = 0; i < LANES; ++i) total += v[i];
    return total;
}

/* a * b + c. FUSED: rounded once, where the instruction set can. */
template <bool FUSED>
INLINE vf multiply_add(vf a, vf b, vf c) {
    if (!FUSED) return a * b + c;
#if GQ_LANES == 16
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif GQ_LANES == 8
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
    return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

/* e^x to 2 units in the last place, e^-87 <= result <= e^88; NaN of NaN. */
template <bool FUSED = false>
INLINE vf exponential(vf given) {
    vf x = given < splat(-87.0f) ? splat(-87.0f) : given;
    x = x > splat(88.0f) ? splat(88.0f) : x;
    const vf shift = splat(12582912.0f); /* 1.5 * 2^23: adding it rounds */
    vf n = multiply_add<FUSED>(x, splat(1.44269504f), shift);
    vi exponent = ((vi)n - (vi)shift) << 23;
    n -= shift;
    vf r = multiply_add<FUSED>(n, splat(-0.693359375f), x);
    r = multiply_add<FUSED>(n, splat(2.12194440e-4f), r);
    vf p = splat(1.9875691500e-4f);
    p = multiply_add<FUSED>(p, r, splat(1.3981999507e-3f));
    p = multiply_add<FUSED>(p, r, splat(8.3334519073e-3f));
    p = multiply_add<FUSED>(p, r, splat(4.1665795894e-2f));
    p = multiply_add<FUSED>(p, r, splat(1.6666665459e-1f));
    p = multiply_add<FUSED>(p, r, splat(5.0000001201e-1f));
    p = multiply_add<FUSED>(p * r, r, r) + 1.0f;
    return given == given ? (vf)((vi)p + exponent) : given;
}

}  // namespace

#endif
