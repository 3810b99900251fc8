#include "quantizer/tables.h"

#include <math.h>
#include <string.h>

#include <initializer_list>
#include <limits>

namespace {

using gq::pass_tables;

/* How far the guide may be from the curve, in cells, so that rounding it gives the right
 * threshold: below one half, with room for rounding. */
constexpr double HALF = 0.45;
constexpr int PIECES = 32;

int32_t bits_of(float value) {
    int32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

float value_of(int32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* The curve through the thresholds (threshold[i], i), continued at both ends. */
struct curve_t {
    const float *threshold;
    int last;

    double at(double x, int *i) const {
        while (*i < last - 1 && x >= (double)threshold[*i + 1]) ++*i;
        const double low = threshold[*i], high = threshold[*i + 1];
        return *i + (x - low) / (high - low);
    }
};

/* Lines through the curve, one for each of the leading bits of |x| + beta; false where
 * one of them is too far from it. */
bool draw_lines(pass_tables *t) {
    const int last = t->cells - 1;
    const float *bound = t->threshold;
    const int32_t from = bits_of(t->beta), to = bits_of(t->limit + t->beta);
    if (!(from > 0 && to > from && to < bits_of(INFINITY))) return false;
    t->shift = 0;
    while ((to >> t->shift) - (from >> t->shift) >= PIECES) ++t->shift;
    const curve_t curve = {bound, last};
    int segment = 1, knot = 1;
    double begin = 0.0, v = curve.at(begin, &segment);
    if (v < -HALF) return false;
    for (int32_t i = from >> t->shift; i <= to >> t->shift; ++i) {
        const double end = (double)value_of((i + 1) << t->shift) - t->beta;
        const double next = curve.at(end, &segment);
        float &gradient = t->gradient[i % PIECES], &line = t->line[i % PIECES];
        gradient = (float)((next - v) / (end - begin));
        line = (float)(v - (double)gradient * begin);
        for (; knot <= last && bound[knot] < end; ++knot)
            if (fabsf(line + gradient * bound[knot] - (float)knot) > HALF) return false;
        begin = end;
        v = next;
    }
    return true;
}

bool guide(pass_tables *t) {
    const int last = t->cells - 1;
    const float *bound = t->threshold;
    if (!t->fold || t->log2 < gq::GUIDED_FROM || last < 4) return false;
    for (int i = 1; i < last; ++i)
        if (!(bound[i] < bound[i + 1])) return false;
    if (!(bound[1] >= 0.0f && bound[last] <= 1e30f)) return false;
    /* On a mu-law curve, gaps grow as x + 1 / mu does. */
    const double first = (double)bound[2] - bound[1];
    const double reach = (double)bound[last] - bound[1];
    const double growth = ((double)bound[last] - bound[last - 1]) / first - 1.0;
    t->beta = (float)(growth > 0.25 ? reach / growth : 4.0 * reach);
    t->limit = bound[last] + (float)((double)bound[last] - bound[last - 1]) * 0.25f;
    /* A little off, more of the lines may be in use. */
    const float beta = t->beta;
    for (float factor : {1.0f, 0.85f, 1.2f, 0.7f, 1.45f}) {
        t->beta = factor * beta;
        if (draw_lines(t)) return true;
    }
    return false;
}

bool odd(const float *values, int n) {
    for (int j = 0; j < n / 2; ++j)
        if (values[j] != -values[n - 1 - j]) return false;
    return true;
}

/* Value `index` of a codebook in its folded or whole order; 0 outside it. */
struct side_t {
    const float *values;
    int size, offset; /* offset: where folding begins */

    double at(int i) const {
        const int j = i + offset;
        return j < 0 || j >= size ? 0.0 : (double)values[j];
    }
};

void fill_soft(const side_t &c, const side_t &d, double alpha, pass_tables *t) {
    const double q2 = alpha < 43.5 ? exp(-2.0 * alpha) : 0.0;
    const int shift = t->fold ? 1 : 0; /* cell i is the interval above i - shift */
    const bool below = t->fold && t->cells > 1;
    t->quick = alpha >= 16.0; /* then q2 and exp(-alpha) are below a float's precision */
    t->q2 = (float)q2;
    const bool one = t->cells == 1; /* no other centroid on either side */
    t->bottom = below ? -INFINITY : one ? INFINITY : (float)c.at(1);
    t->top = one ? -INFINITY : (float)c.at(t->cells - 1 - shift);
    t->half = (float)(alpha / gq::LN2);
    const double most = alpha * (2.0 * gq::OVERSHOOT + 1.0);
    t->most = (float)((most < 28.0 ? most : 28.0) / gq::LN2);
    for (int i = 0; i < t->cells; ++i) {
        const int k = i - shift;
        const double low = c.at(k), gap = c.at(k + 1) - low;
        const bool has_below = below || i > 0, has_above = i < t->cells - 1;
        t->low[i] = (float)low;
        t->gap[i] = (float)gap;
        t->rate[i] = (float)(2.0 * alpha / gq::LN2 / gap);
        t->below[i] = has_below ? (float)(q2 * (c.at(k - 1) - low)) : 0.0f;
        t->above[i] = has_above ? (float)(q2 * (c.at(k + 2) - low)) : 0.0f;
        if (i > 0) t->threshold[i] = (float)low;
        if (!d.values) continue;
        t->d_low[i] = (float)d.at(k);
        t->d_gap[i] = (float)(d.at(k + 1) - d.at(k));
        t->d_below[i] = has_below ? (float)(q2 * d.at(k - 1)) : 0.0f;
        t->d_above[i] = has_above ? (float)(q2 * d.at(k + 2)) : 0.0f;
    }
}

/* The polynomial in y^2, 0 <= y <= 1/2, through alpha / 2 / cosh(alpha y)^2 at seven
 * Chebyshev points; within 1e-6 of it for alpha <= 2.5. */
void fit_slope(double alpha, float *out) {
    constexpr int N = 7;
    double at[N], divided[N], power[N] = {};
    for (int i = 0; i < N; ++i) {
        at[i] = 0.125 + 0.125 * cos(M_PI * (i + 0.5) / N);
        const double c = cosh(alpha * sqrt(at[i]));
        divided[i] = 0.5 * alpha / (c * c);
    }
    for (int k = 1; k < N; ++k)
        for (int i = N - 1; i >= k; --i)
            divided[i] = (divided[i] - divided[i - 1]) / (at[i] - at[i - k]);
    for (int k = N - 1; k >= 0; --k) { /* power = power * (s - at[k]) + divided[k] */
        for (int i = N - 1; i > 0; --i) power[i] = power[i - 1] - at[k] * power[i];
        power[0] = divided[k] - at[k] * power[0];
    }
    for (int i = 0; i < N; ++i) out[i] = (float)power[i];
}

void fill_hard(const side_t &c, const side_t &d, double alpha, pass_tables *t) {
    const int last = t->cells - 1;
    for (int i = 0; i <= last; ++i) {
        t->centroid[i] = (float)c.at(i);
        /* In float, as `hard_index` has it. */
        if (i > 0) t->threshold[i] = 0.5f * ((float)c.at(i - 1) + (float)c.at(i));
    }
    if (!d.values) return;
    t->quick = alpha <= 2.5;
    t->top = (float)c.at(last);
    if (t->quick) fit_slope(alpha, t->slope);
    t->half = (float)(alpha / gq::LN2);
    for (int i = 0; i <= last; ++i) {
        t->d_centroid[i] = (float)d.at(i);
        const double below = i > 0 || t->fold ? c.at(i) - c.at(i - 1) : c.at(1) - c.at(0);
        t->per_gap[i] = (float)(1.0 / below);
    }
    t->to = (float)(1.5 * c.at(last) - 0.5 * c.at(last - 1));
    t->from = t->fold ? -INFINITY : (float)(1.5 * c.at(0) - 0.5 * c.at(1));
}

}  // namespace

void gq::fill_tables(const gq_codebook &q, const float *dc, int mode, float alpha,
                     pass_tables *t) {
    const int levels = 1 << q.bits;
    memset(t, 0, sizeof *t);
    t->fold = odd(q.c, levels) && (!dc || odd(dc, levels)) ? -1 : 0;
    t->log2 = t->fold ? q.bits - 1 : q.bits;
    t->alpha = alpha;
    const int offset = t->fold ? levels / 2 : 0;
    const side_t c = {q.c, levels, offset}, d = {dc, levels, offset};
    t->cells = t->fold ? levels / 2 : mode == GQ_SOFT ? levels - 1 : levels;
    for (float &bound : t->threshold) bound = std::numeric_limits<float>::quiet_NaN();
    if (mode == GQ_SOFT)
        fill_soft(c, d, alpha, t);
    else
        fill_hard(c, d, alpha, t);
    t->threshold[0] = -INFINITY;
    t->guided = guide(t);
    if (t->log2 > 5)
        for (int i = 0; i < 32; ++i) t->coarse[i] = t->threshold[i << (t->log2 - 5)];
}
