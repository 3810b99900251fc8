/* The quantizer's loops over vectors of GQ_LANES weights.
 *
 *     make_pass<loops<Lookup>>()
 *
 * where Lookup::look_up<BITS>(table, k) is table[k], lane by lane, for k < 2^BITS. It may
 * read 32 entries from `table` on.
 */
#ifndef ESPNET_GQ_LOOPS_H
#define ESPNET_GQ_LOOPS_H

#include "quantizer/pass.h"
#include "sizes.h"
#include "target.h"
#include "vector.h"

namespace {

constexpr float OVERSHOOT = 4.0f;

struct span_t {
    int64_t begin, n;
    float s, inv; /* scale, and one over it */
};

INLINE span_t span(const gq::pass &p, int64_t block) {
    const int64_t row = block / p.blocks_per_row, part = block % p.blocks_per_row;
    const int64_t at = part * gq::pass::BLOCK;
    return {row * p.cols + at, gq::least(p.cols - at, gq::pass::BLOCK),
            p.scale[p.per_row ? row : 0], p.inv_scale[p.per_row ? row : 0]};
}

INLINE vf fused(vf a, vf b, vf c) { return multiply_add<true>(a, b, c); }

template <class Lookup>
struct loops {
    struct interval_t {
        vi k;      /* largest k in 0..2^bits-2 with c[k] <= x, 0 where there is none */
        vf c0, c1; /* its centroids */
    };

    struct place_t {
        vf t;     /* position in the interval, limited */
        vi upper; /* position at or above its middle */
        vf a;     /* weight of its further centroid, that of the nearer being 1 */
    };

    struct window_t {
        vf pl, p0, p1, pu; /* p of k-1, k, k+1, k+2, not normalised */
        vf norm;           /* 1 / their sum */
    };

    template <int BITS>
    INLINE interval_t interval(const gq::pass &p, vf x) {
        constexpr int coarse = BITS > 5 ? 5 : BITS, last = (1 << BITS) - 2;
        vi k = {};
#pragma GCC unroll 5
        for (int b = coarse - 1; b >= 0; --b)
            k += (x >= Lookup::template look_up<coarse>(p.coarse, k + (1 << b))) &
                 (1 << b);
        if (BITS > 5) {
            k <<= BITS - coarse;
#pragma GCC unroll 3
            for (int b = BITS - 6; b >= 0; --b)
                k += (x >= Lookup::template look_up<BITS>(p.c + 1, k + (1 << b))) &
                     (1 << b);
        }
        vi over = k > last;
        k = (over & last) | (~over & k);
        return {k, Lookup::template look_up<BITS>(p.c + 1, k),
                Lookup::template look_up<BITS>(p.c + 2, k)};
    }

    /* MIRRORED: the outermost cells are as wide outside as inside. */
    template <bool MIRRORED>
    INLINE place_t place(const gq::pass &p, vf x, const interval_t &in) {
        place_t r;
        vf t = (x - in.c0) / (in.c1 - in.c0);
        t = t < splat(-OVERSHOOT) ? splat(-OVERSHOOT) : t;
        r.t = t > splat(1.0f + OVERSHOOT) ? splat(1.0f + OVERSHOOT) : t;
        r.upper = r.t >= splat(0.5f);
        vf near = r.t >= splat(0.5f) ? 1.0f - r.t : r.t;
        if (MIRRORED) {
            near = near < splat(0.0f) ? -near : near;
            near = near > splat(0.5f) ? splat(0.5f) : near;
        }
        r.a = exponential<true>((2.0f * near - 1.0f) * p.alpha);
        return r;
    }

    template <int BITS>
    INLINE window_t window(const gq::pass &p, const interval_t &in, const place_t &at) {
        const vf zero = {}, one = splat(1.0f);
        vf beyond_near = p.q2 / at.a, beyond_other = p.q2 * at.a * at.a;
        window_t q;
        q.pl = in.k > 0 ? (at.upper ? beyond_other : beyond_near) : zero;
        q.pu = in.k < (1 << BITS) - 2 ? (at.upper ? beyond_near : beyond_other) : zero;
        q.p0 = at.upper ? at.a : one;
        q.p1 = at.upper ? one : at.a;
        q.norm = 1.0f / (q.p0 + q.p1 + q.pl + q.pu);
        return q;
    }

    /* sum_j p_j v_j; v: one of pass::c and dc, v0 and v1 its values at k and k + 1. */
    template <int BITS>
    INLINE vf mean(const window_t &q, const float *v, vi k, vf v0, vf v1) {
        vf vl = Lookup::template look_up<BITS>(v, k);
        vf vu = Lookup::template look_up<BITS>(v + 3, k);
        return q.norm * fused(q.pl, vl, fused(q.p0, v0, fused(q.p1, v1, q.pu * vu)));
    }

    template <int BITS, int MODE>
    INLINE void forward_block(const gq::pass &p, span_t at) {
        const float *w = p.w + at.begin;
        float *out = p.out + at.begin;
        for (int64_t i = 0; i < at.n; i += LANES) {
            vf x = load_part(w + i, at.n - i) * at.inv, value;
            interval_t in = interval<BITS>(p, x);
            if (MODE == GQ_HARD)
                value = x >= 0.5f * (in.c0 + in.c1) ? in.c1 : in.c0;
            else
                value = mean<BITS>(window<BITS>(p, in, place<false>(p, x, in)), p.c,
                                   in.k, in.c0, in.c1);
            /* A NaN weight stays a NaN: it must not turn into a centroid. */
            store_part(out + i, x == x ? value * at.s : x, at.n - i);
        }
    }

    template <int BITS, int MODE>
    INLINE void backward_block(const gq::pass &p, span_t at, int64_t block) {
        const float *w = p.w + at.begin, *grad = p.grad + at.begin;
        float *out = p.out + at.begin;
        vf sum_scale = {}, sum_mu = {};
        for (int64_t i = 0; i < at.n; i += LANES) {
            vf x = load_part(w + i, at.n - i) * at.inv;
            vf g = load_part(grad + i, at.n - i);
            interval_t in = interval<BITS>(p, x);
            place_t r = place<MODE == GQ_HARD>(p, x, in);
            vf d0 = Lookup::template look_up<BITS>(p.dc + 1, in.k);
            vf d1 = Lookup::template look_up<BITS>(p.dc + 2, in.k);
            vf slope;
            if (MODE == GQ_HARD) {
                slope = 2.0f * p.alpha * r.a / ((1.0f + r.a) * (1.0f + r.a));
                vi inside = (r.t >= splat(-0.5f)) & (r.t <= splat(1.5f));
                slope = inside ? slope : vf{};
                vf middle = 0.5f * (in.c0 + in.c1);
                sum_scale = fused(g, x >= middle ? in.c1 : in.c0, sum_scale);
                sum_mu = fused(g, x >= middle ? d1 : d0, sum_mu);
            } else {
                window_t q = window<BITS>(p, in, r);
                vf m = mean<BITS>(q, p.c, in.k, in.c0, in.c1);
                vf j = q.norm * (q.p1 - q.pl + 2.0f * q.pu);
                /* Cov(j, c) from differences to c0: no cancellation for small gaps. */
                vf e1 = in.c1 - in.c0;
                vf el = Lookup::template look_up<BITS>(p.c, in.k) - in.c0;
                vf eu = Lookup::template look_up<BITS>(p.c + 3, in.k) - in.c0;
                vf je = q.norm * fused(q.p1, e1, fused(2.0f * q.pu, eu, -(q.pl * el)));
                slope = 2.0f * p.alpha * fused(-j, m - in.c0, je) / e1;
                vi inside = (r.t > splat(-OVERSHOOT)) & (r.t < splat(1.0f + OVERSHOOT));
                slope = inside ? slope : vf{};
                vf pd = mean<BITS>(q, p.dc, in.k, d0, d1);
                vf through_t = fused(r.t, d1 - d0, d0);
                sum_scale = fused(g, fused(-x, slope, m), sum_scale);
                sum_mu = fused(g, fused(-slope, through_t, pd), sum_mu);
            }
            store_part(out + i, x == x ? g * slope : x, at.n - i);
        }
        p.sum_scale[block] = (double)sum(sum_scale) * at.s;
        p.sum_mu[block] = (double)sum(sum_mu) * at.s;
    }

    template <int BITS, int MODE>
    static void forward(const gq::pass &p, int64_t first, int64_t end) {
        for (int64_t b = first; b < end; ++b) forward_block<BITS, MODE>(p, span(p, b));
    }

    template <int BITS, int MODE>
    static void backward(const gq::pass &p, int64_t first, int64_t end) {
        for (int64_t b = first; b < end; ++b)
            backward_block<BITS, MODE>(p, span(p, b), b);
    }
};

}  // namespace

#endif
