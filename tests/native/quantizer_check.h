/* The quantizer's passes against all centroids in double, on random shapes. */
#ifndef ESPNET_GQ_QUANTIZER_CHECK_H
#define ESPNET_GQ_QUANTIZER_CHECK_H

#include <math.h>

#include <vector>

#include "api.h"
#include "checking.h"
#include "quantizer/tables.h"

namespace {

/* What is quantized, and with what. */
struct quantized {
    int64_t rows, cols;
    int bits;
    bool per_row;
    buffer<float> w, grad, c, dc, scale, inv_scale;

    quantized(int64_t rows, int64_t cols, int bits, bool per_row)
        : rows(rows), cols(cols), bits(bits), per_row(per_row), w(rows * cols),
          grad(rows * cols), c((int64_t)1 << bits), dc(c.size),
          scale(per_row ? rows : 1), inv_scale(scale.size) {
        const double mu = exp(1.0 + 8.0 * (double)uniform()); /* MIN_LOG_MU.. */
        for (int64_t j = 0; j < c.size; ++j) {
            double u = 2.0 * (double)j / (double)(c.size - 1) - 1.0;
            c[j] = (float)(copysign(pow(1.0 + mu, fabs(u)) - 1.0, u) / mu);
            dc[j] = uniform();
        }
        const bool odd = chance(70); /* as on a mu-law curve: tables are folded */
        for (int64_t j = 0; odd && j < c.size / 2; ++j) {
            c[c.size - 1 - j] = -c[j];
            dc[c.size - 1 - j] = -dc[j];
        }
        for (int64_t r = 0; r < scale.size; ++r) {
            scale[r] = 1.1f + uniform();
            inv_scale[r] = 1.0f / scale[r];
        }
        for (int64_t i = 0; i < w.size; ++i) {
            w[i] = 2.0f * uniform();
            grad[i] = uniform();
        }
    }

    gq_codebook handle() const {
        return {c.data, scale.data, inv_scale.data, bits, per_row};
    }

    /* Position of x on the codebook, in gaps. */
    double position(double x) const {
        int64_t k = 0;
        while (k < c.size - 2 && x >= (double)c[k + 1]) ++k;
        return (double)k + (x - (double)c[k]) / ((double)c[k + 1] - (double)c[k]);
    }

    double soft(double x, double alpha) const {
        const double last = (double)c.size - 1, v = position(x);
        const double limited = v < -4.0 ? -4.0 : v > last + 4.0 ? last + 4.0 : v;
        double sum = 0.0, weights = 0.0;
        const double nearest = fmin(fmax(rint(limited), 0.0), last) - limited;
        for (int64_t j = 0; j < c.size; ++j) {
            double d = limited - (double)j;
            double p = exp(-alpha * (d * d - nearest * nearest));
            sum += p * (double)c[j];
            weights += p;
        }
        return sum / weights;
    }

    double hard(double x) const {
        double best = (double)c[0];
        for (int64_t j = 1; j < c.size; ++j)
            if (fabs((double)c[j] - x) <= fabs(best - x)) best = (double)c[j];
        return best;
    }
};

void check_pass(const quantized &q, int mode, float alpha, int isa, int threads) {
    const gq_codebook handle = q.handle();
    buffer<float> out(q.w.size), to_scale(q.scale.size), to_mu(1);
    char text[160];
    snprintf(text, sizeof text, "%s, %s, %ld x %ld, %d bits, alpha %g, %d threads",
             gq_isa_name(isa), mode == GQ_SOFT ? "soft" : "hard", (long)q.rows,
             (long)q.cols, q.bits, (double)alpha, threads);
    out.fill(UNWRITTEN);
    about_to("gq_forward", isa);
    if (gq_forward(&handle, q.w.data, q.rows, q.cols, out.data, mode, alpha, threads, isa))
        fail("gq_forward refused: %s", text);
    for (int64_t i = 0; i < out.size; ++i) {
        const int64_t r = q.per_row ? i / q.cols : 0;
        const double x = (double)q.w[i] * (double)q.inv_scale[r], s = (double)q.scale[r];
        const double found = (double)out[i] / s, v = q.position(x);
        /* Between two centroids, rounding may choose the other one's window. */
        const double middle = fabs(v - floor(v) - 0.5);
        if (middle < 1e-3) continue;
        const double want = mode == GQ_SOFT ? q.soft(x, (double)alpha) : q.hard(x);
        const double bound = mode == GQ_SOFT ? 4.2 * exp(-4.0 * (double)alpha) : 0.0;
        if (!(fabs(found - want) <= bound + 2e-4))
            fail("gq_forward, %s: %g is %g, not %g", text, x, found, want);
    }
    buffer<float> slope(q.w.size);
    slope.fill(UNWRITTEN);
    about_to("gq_backward", isa);
    if (gq_backward(&handle, q.dc.data, q.w.data, q.grad.data, q.rows, q.cols, slope.data,
                    to_scale.data, to_mu.data, mode, alpha, threads, isa))
        fail("gq_backward refused: %s", text);
    std::vector<double> sums((size_t)q.scale.size, 0.0), sizes = sums;
    for (int64_t i = 0; i < slope.size; ++i) {
        if (slope[i] == UNWRITTEN || !isfinite(slope[i]))
            fail("gq_backward, %s: the gradient of weight %ld is %g", text, (long)i,
                 (double)slope[i]);
        /* Both are homogeneous: w d/dw + s d/ds is the value itself. */
        const size_t r = (size_t)(q.per_row ? i / q.cols : 0);
        const double through_w = mode == GQ_SOFT ? (double)slope[i] * (double)q.w[i] : 0.0;
        sums[r] += (double)q.grad[i] * (double)out[i] - through_w;
        sizes[r] += fabs((double)q.grad[i] * (double)out[i]) + fabs(through_w);
    }
    for (int64_t r = 0; r < to_scale.size; ++r)
        if (!(fabs((double)to_scale[r] - sums[(size_t)r]) <=
              1e-4 + 1e-3 * sizes[(size_t)r]))
            fail("gq_backward, %s: the gradient of scale %ld is %g, not %g", text, (long)r,
                 (double)to_scale[r], sums[(size_t)r]);
    if (!isfinite(to_mu[0])) fail("gq_backward, %s: no gradient of mu", text);
}

/* Mu-law curves are folded, and from 5 bits on their cells are found by the guide. */
void check_tables(const quantized &q) {
    const gq_codebook handle = q.handle();
    for (int mode : {GQ_SOFT, GQ_HARD}) {
        gq::pass_tables t;
        gq::fill_tables(handle, nullptr, mode, 3.0f, &t);
        if (t.log2 != q.bits - 1 || t.guided != (q.bits >= 5))
            fail("the tables of a curve of %d bits are folded to %d bits, guided: %d",
                 q.bits, t.log2, (int)t.guided);
    }
}

void check_quantizer(int bits) {
    const bool per_row = chance(50);
    const int64_t rows = per_row ? between(1, 20) : some_size(20);
    const quantized q(rows, chance(10) ? 4096 + below(9) : some_size(140), bits, per_row);
    if (q.c[0] == -q.c[q.c.size - 1]) check_tables(q);
    const float alphas[] = {1.0f, 3.0f, 12.0f, 60.0f, 200.0f};
    for (int mode : {GQ_SOFT, GQ_HARD})
        for (int isa = 0; isa < gq_isa_count(); ++isa)
            for (int threads : {1, 2})
                check_pass(q, mode, alphas[below(5)], isa, threads);
}

/* gq_mulaw against the curve's equation. */
void check_mulaw(int bits) {
    const double ranges[] = {-80.0, 88.0, -7.0, 9.0};
    const int64_t levels = (int64_t)1 << bits;
    buffer<float> log_scale(3), scale(3), inverse(3), log_mu(1), c(levels), dc(levels);
    log_mu[0] = 12.0f * uniform();
    for (int64_t i = 0; i < 3; ++i) log_scale[i] = 120.0f * uniform();
    if (gq_mulaw(log_scale.data, 3, ranges, log_mu.data, ranges + 2, bits, scale.data,
                 inverse.data, c.data, dc.data))
        fail("gq_mulaw refused %d bits", bits);
    for (int64_t i = 0; i < 3; ++i) {
        const double s = exp(fmin(fmax((double)log_scale[i], -80.0), 88.0));
        if (!(fabs(scale[i] / s - 1.0) < 1e-6 && fabs(inverse[i] * s - 1.0) < 1e-6))
            fail("gq_mulaw: scale %g and %g, not %g", scale[i], inverse[i], s);
    }
    const double log = fmin(fmax((double)log_mu[0], -7.0), 9.0);
    auto curve = [&](int64_t j, double ln_mu) {
        const double u = 2.0 * (double)j / (double)(levels - 1) - 1.0, mu = exp(ln_mu);
        return copysign(expm1(fabs(u) * log1p(mu)) / mu, u);
    };
    for (int64_t j = 0; j < levels; ++j) {
        const double slope = (curve(j, log + 1e-4) - curve(j, log - 1e-4)) / 2e-4;
        if (!(fabs(c[j] - curve(j, log)) < 1e-7 && fabs(dc[j] - slope) < 1e-6))
            fail("gq_mulaw, %d bits, ln mu %g: centroid %ld is %g, derivative %g", bits,
                 log, (long)j, c[j], dc[j]);
    }
    for (int wrong : {0, 9})
        REFUSED(gq_mulaw(log_scale.data, 3, ranges, log_mu.data, ranges + 2, wrong,
                         scale.data, inverse.data, c.data, dc.data));
    REFUSED(gq_mulaw(nullptr, 3, ranges, log_mu.data, ranges + 2, bits, scale.data,
                     inverse.data, c.data, dc.data));
}

void check_refused_passes() {
    const quantized q(3, 5, 4, true);
    const gq_codebook good = q.handle();
    buffer<float> out(15), to_scale(3), to_mu(1);
    auto forward = [&](const gq_codebook *c, const float *w, int64_t rows, int64_t cols,
                       float *to, int mode, int isa) {
        return gq_forward(c, w, rows, cols, to, mode, 3.0f, 1, isa);
    };
    auto backward = [&](const gq_codebook *c, const float *dc, const float *grad,
                        int64_t rows, int64_t cols, int mode, int isa) {
        return gq_backward(c, dc, q.w.data, grad, rows, cols, out.data, to_scale.data,
                           to_mu.data, mode, 3.0f, 1, isa);
    };
    expect(forward(&good, q.w.data, 3, 5, out.data, GQ_SOFT, 0) == 0 &&
               backward(&good, q.dc.data, q.grad.data, 3, 5, GQ_HARD, 0) == 0,
           "right arguments");
    REFUSED(forward(nullptr, q.w.data, 3, 5, out.data, GQ_SOFT, 0));
    REFUSED(forward(&good, nullptr, 3, 5, out.data, GQ_SOFT, 0));
    REFUSED(forward(&good, q.w.data, 3, 5, nullptr, GQ_SOFT, 0));
    REFUSED(backward(&good, nullptr, q.grad.data, 3, 5, GQ_SOFT, 0));
    REFUSED(backward(&good, q.dc.data, nullptr, 3, 5, GQ_SOFT, 0));
    const int64_t sizes[][2] = {{-1, 5}, {3, -1}, {INT64_MAX, 5}, {(int64_t)1 << 40, 1 << 20}};
    for (const auto &size : sizes) {
        REFUSED(forward(&good, q.w.data, size[0], size[1], out.data, GQ_SOFT, 0));
        REFUSED(backward(&good, q.dc.data, q.grad.data, size[0], size[1], GQ_SOFT, 0));
    }
    for (int mode : {-1, 2}) {
        REFUSED(forward(&good, q.w.data, 3, 5, out.data, mode, 0));
        REFUSED(backward(&good, q.dc.data, q.grad.data, 3, 5, mode, 0));
    }
    for (int isa : {-1, gq_isa_count()}) {
        REFUSED(forward(&good, q.w.data, 3, 5, out.data, GQ_SOFT, isa));
        REFUSED(backward(&good, q.dc.data, q.grad.data, 3, 5, GQ_SOFT, isa));
    }
    for (int bits : {-1, 0, 9}) {
        gq_codebook bad = good;
        bad.bits = bits;
        REFUSED(forward(&bad, q.w.data, 3, 5, out.data, GQ_SOFT, 0));
        REFUSED(backward(&bad, q.dc.data, q.grad.data, 3, 5, GQ_SOFT, 0));
    }
    for (int missing = 0; missing < 3; ++missing) {
        gq_codebook bad = good;
        (missing == 0 ? bad.c : missing == 1 ? bad.scale : bad.inv_scale) = nullptr;
        REFUSED(forward(&bad, q.w.data, 3, 5, out.data, GQ_SOFT, 0));
        REFUSED(backward(&bad, q.dc.data, q.grad.data, 3, 5, GQ_SOFT, 0));
    }
}

}  // namespace

#endif
