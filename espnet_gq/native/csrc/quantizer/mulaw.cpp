/* The mu-law codebook; quantizer/mulaw.py has the same in PyTorch. */
#include <math.h>

#include "api.h"

namespace {

/* x within the range; a NaN stays one. */
double limited(double x, const double *range) {
    return x < range[0] ? range[0] : x > range[1] ? range[1] : x;
}

}  // namespace

int gq_mulaw(const float *log_scale, int64_t scales, const double *scale_range,
             const float *log_mu, const double *mu_range, int bits, float *scale,
             float *inv_scale, float *c, float *dc) {
    if (!log_scale || scales < 1 || !scale_range || !log_mu || !mu_range || bits < 1 ||
        bits > 8 || !scale || !inv_scale || !c || !dc)
        return 1;
    for (int64_t i = 0; i < scales; ++i) {
        scale[i] = (float)exp(limited((double)log_scale[i], scale_range));
        inv_scale[i] = 1.0f / scale[i];
    }
    const double mu = exp(limited((double)*log_mu, mu_range)), span = log1p(mu);
    const int last = (1 << bits) - 1;
    for (int j = 0; 2 * j <= last; ++j) {
        const double u = (double)(last - 2 * j) / (double)last;
        const double grown = expm1(u * span), value = grown / mu;
        /* mu dc/dmu; it is 0 at |u| = 1, where c is 1 whatever mu is. */
        const double slope = u * (grown + 1.0) / (1.0 + mu) - value;
        c[last - j] = (float)value;
        dc[last - j] = (float)slope;
        c[j] = -c[last - j];
        dc[j] = -dc[last - j];
    }
    return 0;
}
