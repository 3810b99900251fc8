/* The quantizer's loops over vectors of GQ_LANES weights.
 *
 *     make_pass<loops<Lookup>>()
 *
 * where Lookup::look_up<BITS>(table, k) is table[k], lane by lane, for k < 2^BITS. It may
 * read 32 entries from `table` on. tables.h says what is looked up.
 */
#ifndef ESPNET_GQ_LOOPS_H
#define ESPNET_GQ_LOOPS_H

#include "quantizer/pass.h"
#include "sizes.h"
#include "target.h"
#include "vector.h"

namespace {

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

/* The stretches of a block that are whole vectors: nearly all of it, then the rest of
 * it in a vector of its own, filled up with zeros.
 *
 *     for (walk_t k(p, part); k.next();) // k.w, k.grad, k.out: k.n values each
 */
struct walk_t {
    const float *w, *grad;
    float *out;
    int64_t n = 0;

    INLINE_MEMBER walk_t(const gq::pass &p, span_t part)
        : w(p.w + part.begin), grad(p.grad ? p.grad + part.begin : nullptr),
          out(p.out + part.begin), rest(part.n) {}

    INLINE_MEMBER bool next() {
        if (filled) {
            for (int64_t i = 0; i < rest; ++i) to[i] = tail[2][i];
            return false;
        }
        if (n == 0 && rest >= LANES) {
            n = rest - rest % LANES;
            rest -= n;
            return true;
        }
        if (rest == 0) return false;
        for (int64_t i = 0; i < rest; ++i) {
            tail[0][i] = w[n + i];
            if (grad) tail[1][i] = grad[n + i];
        }
        to = out + n;
        w = tail[0], grad = tail[1], out = tail[2];
        n = LANES;
        return filled = true;
    }

   private:
    int64_t rest;
    bool filled = false;
    float *to = nullptr;
    float tail[3][LANES] = {};
};

INLINE vf fused(vf a, vf b, vf c) { return multiply_add<true>(a, b, c); }

INLINE vf flipped(vf value, vi sign) { return (vf)((vi)value ^ sign); }

template <class Lookup>
struct loops {
    using tables = gq::pass_tables;

    template <int LOG2>
    INLINE vf at(const float *table, vi k) {
        if (LOG2 == 0) return splat(table[0]);
        return Lookup::template look_up<LOG2>(table, k);
    }

    /* What is the same for all weights of a block, in registers. */
    struct fixed_t {
        const tables &t;
        vf s, inv, beta, limit, half, most, lowest, q2, bottom, top, from, to, alpha;
        vf slope[7];
        vi sign; /* the sign bit, if the codebook is folded */
        bool guided;
        int32_t shift;

        INLINE_MEMBER fixed_t(const tables &t, span_t part)
            : t(t), s(splat(part.s)), inv(splat(part.inv)), beta(splat(t.beta)),
              limit(splat(t.limit)), half(splat(t.half)), most(splat(t.most)),
              lowest(splat(-t.most)), q2(splat(t.q2)), bottom(splat(t.bottom)),
              top(splat(t.top)), from(splat(t.from)), to(splat(t.to)),
              alpha(splat(2.0f * t.alpha)), sign(vi{} + (t.fold & INT32_MIN)),
              guided(t.guided), shift(t.shift) {
            for (int i = 0; i < 7; ++i) slope[i] = splat(t.slope[i]);
        }
    };

    /* A weight as it is looked up. */
    struct folded_t {
        vf x, size; /* size: |x| if the codebook is folded, else x */
        vi sign;    /* what gives a result back its sign */
    };

    INLINE folded_t folded(const fixed_t &f, vf w) {
        folded_t r;
        r.x = w * f.inv + 0.0f; /* -0 belongs to the centroid above */
        r.sign = (vi)r.x & f.sign;
        r.size = (vf)((vi)r.x & ~f.sign);
        return r;
    }

    /* The bits of a cell's number above LOG2 are not defined. */
    template <int LOG2>
    INLINE vi cell(const fixed_t &f, vf x) {
        const tables &t = f.t;
        if (LOG2 == 0) return vi{};
        if (LOG2 >= gq::GUIDED_FROM && f.guided) {
            x = least(x, f.limit);
            vi piece = (vi)(x + f.beta) >> f.shift;
            vf v = fused(Lookup::template look_up<5>(t.gradient, piece), x,
                         Lookup::template look_up<5>(t.line, piece));
            vi k = (vi)(v + 12582912.0f); /* 1.5 * 2^23: adding it rounds */
            return k + ~(vi)(x >= at<LOG2>(t.threshold, k));
        }
        constexpr int coarse = LOG2 > 5 ? 5 : LOG2;
        const float *table = LOG2 > 5 ? t.coarse : t.threshold;
        vi k = {};
#pragma GCC unroll 5
        for (int b = coarse - 1; b >= 0; --b)
            k += (x >= at<coarse>(table, k + (1 << b))) & (1 << b);
        if (LOG2 > 5) {
            k <<= LOG2 - coarse;
#pragma GCC unroll 3
            for (int b = LOG2 - 6; b >= 0; --b)
                k += (x >= at<LOG2>(t.threshold, k + (1 << b))) & (1 << b);
        }
        return k;
    }

    /* The cell of the nearest centroid. A negative weight midway between two folded
     * centroids belongs to the smaller one: its size is looked up one step lower. */
    template <int LOG2>
    INLINE vi nearest(const fixed_t &f, const folded_t &r) {
        return cell<LOG2>(f, (vf)((vi)r.size + (r.sign >> 31)));
    }

    /* 2^x to 2e-7 of it, |x| < 126. */
    INLINE vf power_of_two(vf x) {
        const vf shift = splat(12582912.0f);
        vf n = x + shift;
        vi exponent = (vi)n << 23;
        vf r = x - (n - shift);
        vf p = splat(1.327647069e-3f);
        p = fused(p, r, splat(9.675541324e-3f));
        p = fused(p, r, splat(5.550713278e-2f));
        p = fused(p, r, splat(2.402211972e-1f));
        p = fused(p, r, splat(6.931469671e-1f));
        p = fused(p, r, splat(1.0f));
        return (vf)((vi)p + exponent);
    }

    /* Where a weight is between two centroids. With z = exp(alpha (2t - 1)) the
     * probabilities of the centroids k-1, k, k+1, k+2 are as q2, z, z^2, q2 z^3. */
    struct place_t {
        vi k;
        vf low, gap, d, rate, z; /* lower centroid, gap to the next, x above it */
    };

    template <int LOG2>
    INLINE place_t place(const fixed_t &f, vf x) {
        const tables &t = f.t;
        place_t r;
        r.k = cell<LOG2>(f, x);
        r.low = at<LOG2>(t.low, r.k);
        r.d = x - r.low;
        r.gap = at<LOG2>(t.gap, r.k);
        /* A look-up in a large table takes longer than a division. */
        r.rate = LOG2 > 5 ? 2.0f * f.half / r.gap : at<LOG2>(t.rate, r.k);
        vf e = least(fused(r.d, r.rate, -f.half), f.most);
        r.z = power_of_two(greatest(e, f.lowest));
        return r;
    }

    struct window_t {
        vf pl, p1, zzz, pu; /* p of k-1, k+1 and k+2, not normalised; z^3 */
        vf norm;            /* 1 / their sum, that of k being z */
    };

    INLINE window_t window(const fixed_t &f, vf x, vf z) {
        window_t q;
        q.pl = x >= f.bottom ? f.q2 : vf{};
        q.p1 = z * z;
        q.zzz = q.p1 * z;
        q.pu = q.zzz * (x < f.top ? f.q2 : vf{});
        q.norm = 1.0f / ((q.pl + z) + (q.p1 + q.pu));
        return q;
    }

    template <int LOG2, bool QUICK>
    INLINE void soft_block(const gq::pass &p, span_t part) {
        const tables &t = p.t;
        const fixed_t f(t, part);
        for (walk_t b(p, part); b.next();)
            for (int64_t i = 0; i < b.n; i += LANES) {
                folded_t x = folded(f, load(b.w + i));
                place_t r = place<LOG2>(f, x.size);
                vf m;
                if (QUICK) {
                    m = r.gap * r.z / (1.0f + r.z);
                } else {
                    window_t q = window(f, x.size, r.z);
                    m = fused(q.p1, r.gap, at<LOG2>(t.below, r.k));
                    m = q.norm * fused(q.zzz, at<LOG2>(t.above, r.k), m);
                }
                vf value = flipped((r.low + m) * f.s, x.sign);
                /* A NaN weight stays a NaN: it must not turn into a centroid. */
                store(b.out + i, x.x == x.x ? value : x.x);
            }
    }

    template <int LOG2>
    INLINE void hard_block(const gq::pass &p, span_t part) {
        const fixed_t f(p.t, part);
        for (walk_t b(p, part); b.next();)
            for (int64_t i = 0; i < b.n; i += LANES) {
                folded_t x = folded(f, load(b.w + i));
                vf c = at<LOG2>(p.t.centroid, nearest<LOG2>(f, x));
                store(b.out + i, x.x == x.x ? flipped(c * f.s, x.sign) : x.x);
            }
    }

    template <int LOG2>
    INLINE void soft_gradient_block(const gq::pass &p, span_t part, int64_t block) {
        const tables &t = p.t;
        const fixed_t f(t, part);
        constexpr float most = (float)gq::OVERSHOOT;
        const vf per_half = 0.5f / f.half;
        vf sum_scale = {}, sum_mu = {};
        for (walk_t b(p, part); b.next();)
            for (int64_t i = 0; i < b.n; i += LANES) {
                folded_t x = folded(f, load(b.w + i));
                vf g = load(b.grad + i), signed_g = flipped(g, x.sign);
                place_t r = place<LOG2>(f, x.size);
                window_t q = window(f, x.size, r.z);
                vf gap = r.gap, below = at<LOG2>(t.below, r.k);
                vf above = at<LOG2>(t.above, r.k) * q.zzz;
                /* From differences to c_k: no cancellation for small gaps. */
                vf m = q.norm * fused(q.p1, gap, below + above);
                vf j = q.norm * fused(splat(2.0f), q.pu, q.p1 - q.pl);
                vf je = q.norm * fused(q.p1, gap, fused(splat(2.0f), above, -below));
                vf slope = (float)gq::LN2 * r.rate * fused(-j, m, je);
                vi inside = (r.d > -most * gap) & (r.d < (1.0f + most) * gap);
                slope = inside ? slope : vf{};
                vf d_low = at<LOG2>(t.d_low, r.k), d_gap = at<LOG2>(t.d_gap, r.k);
                vf pd = fused(q.zzz, at<LOG2>(t.d_above, r.k), at<LOG2>(t.d_below, r.k));
                pd = q.norm * fused(q.p1, d_low + d_gap, fused(r.z, d_low, pd));
                vf position = inside ? r.d * r.rate * per_half : vf{};
                vf through_t = fused(position, d_gap, d_low);
                sum_scale =
                    fused(signed_g, fused(-x.size, slope, r.low + m), sum_scale);
                sum_mu = fused(signed_g, fused(-slope, through_t, pd), sum_mu);
                store(b.out + i, x.x == x.x ? g * slope : x.x);
            }
        p.sum_scale[block] = (double)sum(sum_scale) * part.s;
        p.sum_mu[block] = (double)sum(sum_mu) * part.s;
    }

    /* 2 alpha p (1 - p) with p = sigmoid(alpha (2 away - 1)). */
    template <bool QUICK>
    INLINE vf slope_at(const fixed_t &f, vf away) {
        if (!QUICK) {
            vf e = greatest((2.0f * away - 1.0f) * f.half, splat(-125.0f));
            vf z = power_of_two(e);
            return f.alpha * z / ((1.0f + z) * (1.0f + z));
        }
        vf y = away - 0.5f, s = y * y, slope = f.slope[6];
#pragma GCC unroll 6
        for (int k = 5; k >= 0; --k) slope = fused(slope, s, f.slope[k]);
        return slope;
    }

    template <int LOG2, bool QUICK>
    INLINE void hard_gradient_block(const gq::pass &p, span_t part, int64_t block) {
        const tables &t = p.t;
        const fixed_t f(t, part);
        vf sum_scale = {}, sum_mu = {};
        for (walk_t b(p, part); b.next();)
            for (int64_t i = 0; i < b.n; i += LANES) {
                folded_t x = folded(f, load(b.w + i));
                vf g = load(b.grad + i), signed_g = flipped(g, x.sign);
                vi n = nearest<LOG2>(f, x);
                vf c = at<LOG2>(t.centroid, n), d = x.size - c;
                sum_scale = fused(signed_g, c, sum_scale);
                sum_mu = fused(signed_g, at<LOG2>(t.d_centroid, n), sum_mu);
                /* The outermost cells are as wide outside as inside. */
                n -= (d >= vf{}) & (x.size < f.top);
                vf away = (vf)((vi)d & INT32_MAX) * at<LOG2>(t.per_gap, n);
                vf slope = slope_at<QUICK>(f, least(away, splat(0.5f)));
                vi inside = (x.size >= f.from) & (x.size <= f.to);
                store(b.out + i, x.x == x.x ? g * (inside ? slope : vf{}) : x.x);
            }
        p.sum_scale[block] = (double)sum(sum_scale) * part.s;
        p.sum_mu[block] = (double)sum(sum_mu) * part.s;
    }

    template <int LOG2, bool QUICK>
    static void soft(const gq::pass &p, int64_t first, int64_t end) {
        for (int64_t b = first; b < end; ++b) soft_block<LOG2, QUICK>(p, span(p, b));
    }

    template <int LOG2>
    static void hard(const gq::pass &p, int64_t first, int64_t end) {
        for (int64_t b = first; b < end; ++b) hard_block<LOG2>(p, span(p, b));
    }

    template <int LOG2>
    static void soft_gradient(const gq::pass &p, int64_t first, int64_t end) {
        for (int64_t b = first; b < end; ++b)
            soft_gradient_block<LOG2>(p, span(p, b), b);
    }

    template <int LOG2, bool QUICK>
    static void hard_gradient(const gq::pass &p, int64_t first, int64_t end) {
        for (int64_t b = first; b < end; ++b)
            hard_gradient_block<LOG2, QUICK>(p, span(p, b), b);
    }
};

}  // namespace

#endif
