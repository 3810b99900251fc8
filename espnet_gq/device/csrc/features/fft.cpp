#include "features/fft.h"

#include <math.h>

namespace asr {

namespace {

/* A complex number; std::complex checks for NaN at each product. */
struct complex {
    double re, im;
};

complex operator+(complex a, complex b) { return {a.re + b.re, a.im + b.im}; }
complex operator-(complex a, complex b) { return {a.re - b.re, a.im - b.im}; }
complex operator*(complex a, complex b) {
    return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
complex times_minus_i(complex a) { return {a.im, -a.re}; }

/* exp(-2 pi i t / n), from a table of all n. */
struct roots_t {
    const double *cosine, *sine;
    int64_t n;
    complex operator()(int64_t t) const { return {cosine[t % n], sine[t % n]}; }
};

/* One step of Stockham's sorting FFT: `length` = factor * m points that are `stride`
 * apart. y[stride (factor j + r)] = w_length^(j r) sum_k w_factor^(k r) x[stride (j + k m)]. */
void pass(int64_t factor, int64_t length, int64_t stride, const complex *x, complex *y,
          const roots_t &root) {
    const int64_t m = length / factor, unit = root.n / length;
    for (int64_t j = 0; j < m; ++j) {
        const complex *from = x + stride * j;
        complex *to = y + stride * factor * j;
        if (factor == 4) {
            const complex w1 = root(j * unit), w2 = root(2 * j * unit);
            const complex w3 = root(3 * j * unit);
            for (int64_t q = 0; q < stride; ++q) {
                complex a = from[q], b = from[q + stride * m];
                complex c = from[q + stride * 2 * m], d = from[q + stride * 3 * m];
                complex ac = a + c, bd = b + d, a_c = a - c;
                complex b_d = times_minus_i(b - d);
                to[q] = ac + bd;
                to[q + stride] = (a_c + b_d) * w1;
                to[q + stride * 2] = (ac - bd) * w2;
                to[q + stride * 3] = (a_c - b_d) * w3;
            }
        } else {
            for (int64_t r = 0; r < factor; ++r) {
                const complex w = root(j * r * unit);
                for (int64_t q = 0; q < stride; ++q) {
                    complex sum = {0, 0};
                    for (int64_t k = 0; k < factor; ++k)
                        sum = sum + from[q + stride * k * m] *
                                        root(k * r % factor * (root.n / factor));
                    to[q + stride * r] = sum * w;
                }
            }
        }
    }
}

}  // namespace

Spectrum::Spectrum(int64_t n) : n_(n), cosine_((size_t)n), sine_((size_t)n) {
    int64_t left = n / 2;
    for (int64_t factor : {4, 2, 3, 5})
        for (; left % factor == 0; left /= factor) factors_.push_back(factor);
    for (int64_t factor = 7; left > 1; factor += 2)
        for (; left % factor == 0; left /= factor) factors_.push_back(factor);
    for (int64_t t = 0; t < n; ++t) {
        double angle = -2 * 3.14159265358979323846 * (double)t / (double)n;
        cosine_[(size_t)t] = cos(angle);
        sine_[(size_t)t] = sin(angle);
    }
}

void Spectrum::power(const float *x, float *out, std::vector<double> &space) const {
    /* Two real samples are a complex one: a transform of half the length. */
    const int64_t half = n_ / 2;
    space.resize((size_t)(4 * half));
    complex *a = (complex *)space.data(), *b = a + half;
    for (int64_t t = 0; t < half; ++t) a[t] = {x[2 * t], x[2 * t + 1]};
    const roots_t root = {cosine_.data(), sine_.data(), n_};
    int64_t length = half, stride = 1;
    for (int64_t factor : factors_) {
        pass(factor, length, stride, a, b, root);
        complex *made = b;
        b = a;
        a = made;
        length /= factor;
        stride *= factor;
    }
    for (int64_t k = 0; k <= half; ++k) {
        complex z = a[k % half], mirror = a[(half - k) % half];
        mirror.im = -mirror.im;
        complex even = z + mirror, odd = times_minus_i(z - mirror) * root(k);
        float re = (float)(0.5 * (even.re + odd.re)), im = (float)(0.5 * (even.im + odd.im));
        out[k] = re * re + im * im;
    }
}

}  // namespace asr
