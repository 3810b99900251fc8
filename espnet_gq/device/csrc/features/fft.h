/* The power spectrum of a frame: |X[k]|^2, X[k] = sum_t x[t] exp(-2 pi i k t / n).
 *
 * In double precision: what is left of a loud tone in a quiet band then comes from the
 * samples alone.
 */
#ifndef GQ_ASR_FFT_H
#define GQ_ASR_FFT_H

#include <stdint.h>

#include <vector>

namespace asr {

class Spectrum {
  public:
    /* Frames of n samples, n at least 2 and even. */
    explicit Spectrum(int64_t n);

    int64_t bins() const { return n_ / 2 + 1; }
    /* x: (n). out: (n / 2 + 1). `space` is memory that calls reuse. */
    void power(const float *x, float *out, std::vector<double> &space) const;

  private:
    int64_t n_;
    std::vector<int64_t> factors_;       /* of n / 2 */
    std::vector<double> cosine_, sine_;  /* (n) of -2 pi t / n */
};

}  // namespace asr

#endif
