/* The quantizer's loops for one instruction set; included by _fused.c once for each.
 *
 * Before including, define
 *   NAME(x)   x with the suffix of the instruction set,
 *   LANES     float lanes of a vector,
 *   LOOKUP(table, index, bits)   table[index] lane by lane, index < 2^bits.
 */

typedef float NAME(vf) __attribute__((vector_size(LANES * 4)));
typedef int32_t NAME(vi) __attribute__((vector_size(LANES * 4)));
#define VF NAME(vf)
#define VI NAME(vi)

INLINE VF NAME(select)(VI mask, VF yes, VF no) {
    return (VF)((mask & (VI)yes) | (~mask & (VI)no));
}
#define SELECT NAME(select)

INLINE VF NAME(load)(const float *p, int n) {
    VF v = {0};
    memcpy(&v, p, n == LANES ? LANES * 4 : (size_t)n * 4);
    return v;
}

INLINE void NAME(store)(float *p, VF v, int n) {
    memcpy(p, &v, n == LANES ? LANES * 4 : (size_t)n * 4);
}

INLINE float NAME(sum)(VF v) {
    float total = 0.0f;
    for (int i = 0; i < LANES; ++i) total += v[i];
    return total;
}

/* exp for x <= 0, relative error below 2e-7; 0 below -87. */
INLINE VF NAME(exp_negative)(VF x) {
    VI tiny = x <= -87.0f;
    x = SELECT(tiny, (VF){0} - 87.0f, x);
    VI n = __builtin_convertvector(x * 1.44269504f - 0.5f, VI);
    VF f = __builtin_convertvector(n, VF);
    VF r = (x - f * 0.693359375f) + f * 2.12194440e-4f;
    VF y = r * 1.9875691500e-4f + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    y = y * (VF)((n + 127) << 23);
    return SELECT(tiny, (VF){0}, y);
}

/* The largest k in 0..2^bits-2 with c[k] <= x, 0 where there is none. */
INLINE VI NAME(interval)(const pass_t *p, VF x, const int bits) {
    const int coarse = bits > 5 ? 5 : bits;
    VI k = {0};
#pragma GCC unroll 5
    for (int b = coarse - 1; b >= 0; --b)
        k += (x >= LOOKUP(p->coarse, k + (1 << b), coarse)) & (1 << b);
    if (bits > 5) {
        k <<= bits - 5;
#pragma GCC unroll 3
        for (int b = bits - 6; b >= 0; --b)
            k += (x >= LOOKUP(p->c + 1, k + (1 << b), bits)) & (1 << b);
    }
    const int last = (1 << bits) - 2;
    VI over = k > last;
    return (over & last) | (~over & k);
}

typedef struct {
    VI k, upper;     /* interval; position at or above its middle */
    VF c0, c1, t;    /* its centroids; position in it, clamped */
    VF a;            /* weight of its further centroid, that of the nearer being 1 */
} NAME(place_t);

INLINE NAME(place_t) NAME(place)(const pass_t *p, VF x, const int bits,
                                 const int with_a) {
    NAME(place_t) r;
    r.k = NAME(interval)(p, x, bits);
    r.c0 = LOOKUP(p->c + 1, r.k, bits);
    r.c1 = LOOKUP(p->c + 2, r.k, bits);
    if (with_a == WITHOUT_A) return r;
    VF t = (x - r.c0) / (r.c1 - r.c0);
    t = SELECT(t < -OVERSHOOT, (VF){0} - OVERSHOOT, t);
    r.t = SELECT(t > 1.0f + OVERSHOOT, (VF){0} + (1.0f + OVERSHOOT), t);
    r.upper = r.t >= 0.5f;
    VF near = SELECT(r.upper, 1.0f - r.t, r.t);
    if (with_a == WITH_A_MIRRORED) { /* outermost cells: as wide outside as inside */
        near = SELECT(near < 0.0f, (VF){0} - near, near);
        near = SELECT(near > 0.5f, (VF){0} + 0.5f, near);
    }
    r.a = NAME(exp_negative)((2.0f * near - 1.0f) * p->alpha);
    return r;
}

typedef struct {
    VF pl, p0, p1, pu, norm; /* unnormalised p of k-1, k, k+1, k+2; 1 / their sum */
} NAME(window_t);

INLINE NAME(window_t) NAME(window)(const pass_t *p, const NAME(place_t) *r,
                                   const int bits) {
    NAME(window_t) q;
    const VF one = (VF){0} + 1.0f;
    VF beyond_near = p->q2 / r->a, beyond_other = p->q2 * r->a * r->a;
    q.pl = SELECT(r->k > 0, SELECT(r->upper, beyond_other, beyond_near), (VF){0});
    q.pu = SELECT(r->k < (1 << bits) - 2,
                  SELECT(r->upper, beyond_near, beyond_other), (VF){0});
    q.p0 = SELECT(r->upper, r->a, one);
    q.p1 = SELECT(r->upper, one, r->a);
    q.norm = 1.0f / (q.p0 + q.p1 + q.pl + q.pu);
    return q;
}

INLINE void NAME(forward_block)(const pass_t *p, span_t at, const int bits,
                                const int mode) {
    const float *w = p->w + at.begin;
    float *out = p->out + at.begin;
    for (int64_t i = 0; i < at.n; i += LANES) {
        const int n = at.n - i < LANES ? (int)(at.n - i) : LANES;
        VF x = NAME(load)(w + i, n) * at.inv;
        NAME(place_t) r = NAME(place)(p, x, bits, mode == SOFT ? WITH_A : WITHOUT_A);
        VF value;
        if (mode == HARD) {
            value = SELECT(x >= 0.5f * (r.c0 + r.c1), r.c1, r.c0);
        } else {
            NAME(window_t) q = NAME(window)(p, &r, bits);
            value = q.norm * (q.pl * LOOKUP(p->c, r.k, bits) + q.p0 * r.c0 +
                              q.p1 * r.c1 + q.pu * LOOKUP(p->c + 3, r.k, bits));
        }
        /* A NaN weight stays a NaN: it must not turn into a centroid. */
        NAME(store)(out + i, SELECT(x == x, value * at.s, x), n);
    }
}

INLINE void NAME(backward_block)(const pass_t *p, span_t at, const int bits,
                                 const int mode) {
    const float *w = p->w + at.begin, *grad = p->grad + at.begin;
    float *out = p->out + at.begin;
    VF sum_scale = {0}, sum_mu = {0};
    for (int64_t i = 0; i < at.n; i += LANES) {
        const int n = at.n - i < LANES ? (int)(at.n - i) : LANES;
        VF x = NAME(load)(w + i, n) * at.inv, g = NAME(load)(grad + i, n);
        NAME(place_t) r =
            NAME(place)(p, x, bits, mode == SOFT ? WITH_A : WITH_A_MIRRORED);
        VF d0 = LOOKUP(p->dc + 1, r.k, bits), d1 = LOOKUP(p->dc + 2, r.k, bits);
        VF slope;
        if (mode == HARD) {
            VI high = x >= 0.5f * (r.c0 + r.c1);
            slope = 2.0f * p->alpha * r.a / ((1.0f + r.a) * (1.0f + r.a));
            slope = SELECT((r.t >= -0.5f) & (r.t <= 1.5f), slope, (VF){0});
            sum_scale += g * SELECT(high, r.c1, r.c0);
            sum_mu += g * SELECT(high, d1, d0);
        } else {
            NAME(window_t) q = NAME(window)(p, &r, bits);
            VF cl = LOOKUP(p->c, r.k, bits), cu = LOOKUP(p->c + 3, r.k, bits);
            VF dl = LOOKUP(p->dc, r.k, bits), du = LOOKUP(p->dc + 3, r.k, bits);
            VF m = q.norm * (q.pl * cl + q.p0 * r.c0 + q.p1 * r.c1 + q.pu * cu);
            VF j = q.norm * (q.p1 - q.pl + 2.0f * q.pu);
            /* Cov(j, c) from differences to c0: no cancellation for small gaps. */
            VF e1 = r.c1 - r.c0, el = cl - r.c0, eu = cu - r.c0;
            VF je = q.norm * (q.p1 * e1 - q.pl * el + 2.0f * q.pu * eu);
            slope = 2.0f * p->alpha * (je - j * (m - r.c0)) / e1;
            slope = SELECT((r.t > -OVERSHOOT) & (r.t < 1.0f + OVERSHOOT), slope,
                           (VF){0});
            VF pd = q.norm * (q.pl * dl + q.p0 * d0 + q.p1 * d1 + q.pu * du);
            sum_scale += g * (m - x * slope);
            sum_mu += g * (pd - slope * ((1.0f - r.t) * d0 + r.t * d1));
        }
        NAME(store)(out + i, SELECT(x == x, g * slope, x), n);
    }
    p->sum_scale[at.block] = (double)NAME(sum)(sum_scale) * at.s;
    p->sum_mu[at.block] = (double)NAME(sum)(sum_mu) * at.s;
}

/* One function for each bit width and mode: inlined into one, the compiler would keep
 * too few values in registers. */
#define BOTH_MODES(pass, bits)                                                         \
    static __attribute__((noinline)) void NAME(pass##_soft_##bits)(const pass_t *p,    \
                                                                   span_t at) {        \
        NAME(pass)(p, at, bits, SOFT);                                                 \
    }                                                                                  \
    static __attribute__((noinline)) void NAME(pass##_hard_##bits)(const pass_t *p,    \
                                                                   span_t at) {        \
        NAME(pass)(p, at, bits, HARD);                                                 \
    }
#define ALL_BITS(macro, pass)                                                          \
    macro(pass, 1) macro(pass, 2) macro(pass, 3) macro(pass, 4)                        \
    macro(pass, 5) macro(pass, 6) macro(pass, 7) macro(pass, 8)

ALL_BITS(BOTH_MODES, forward_block)
ALL_BITS(BOTH_MODES, backward_block)

#define CASE(pass, bits)                                                               \
    case bits:                                                                         \
        if (p->mode == SOFT) NAME(pass##_soft_##bits)(p, span(p, b));                  \
        else NAME(pass##_hard_##bits)(p, span(p, b));                                  \
        break;
#define BLOCKS(pass)                                                                   \
    for (int64_t b = first; b < end; ++b)                                              \
        switch (p->bits) { ALL_BITS(CASE, pass) }

static void NAME(run_blocks)(const pass_t *p, int64_t first, int64_t end) {
    if (p->grad) {
        BLOCKS(backward_block)
    } else {
        BLOCKS(forward_block)
    }
}

#undef BOTH_MODES
#undef ALL_BITS
#undef CASE
#undef BLOCKS
#undef SELECT
#undef VF
#undef VI
