/* Speech to log mel features, as ESPnet's default frontend and its normalizations,
 * global_mvn or utterance_mvn, make them:
 *
 *     feature[j, b] = (ln max(1e-10, sum_k mel[b, k] |X_j[k]|^2) - mean[b]) / std[b],
 *
 * X_j the spectrum of window times the samples from j * hop - n_fft / 2 on, reflected
 * at both ends of the utterance (from j * hop on, without reflection, if not `center`).
 */
#ifndef GQ_ASR_FEATURES_H
#define GQ_ASR_FEATURES_H

#include <stdint.h>

#include <memory>
#include <vector>

#include "features/fft.h"
#include "file/loader.h"
#include "frames.h"

namespace asr {

/* What a model file says of its features; does not change. */
struct Features {
    explicit Features(Loader &loader);

    int64_t rate, n_fft, hop, mels;
    bool center;
    const float *window; /* (n_fft) */
    const float *mean;   /* (mels), or NULL */
    const float *std;    /* (mels), or NULL */
    /* Subtract the utterance's own mean, divide by its own deviation. */
    bool own_mean, own_std;
    bool wait() const { return own_mean || own_std; } /* for the end of the utterance */
    /* A mel band is a row of n_fft / 2 + 1 weights that are 0 outside of [begin, end). */
    struct Band {
        int64_t begin, end;
        const float *weight; /* of bin 0 */
    };
    std::vector<Band> bands;
    std::unique_ptr<Spectrum> spectrum;
};

/* The features of an utterance, as its samples arrive. */
class FeatureStream {
  public:
    explicit FeatureStream(const Features &features)
        : features_(features), waiting_(features.mels) {}

    /* Append the frames that these samples (n) complete. */
    void push(const float *samples, int64_t n, Frames &out);
    /* Append those of the end. */
    void finish(Frames &out);

  private:
    void begin();
    void emit(Frames &out);
    void normalize();
    void frame(const float *samples, float *out);

    const Features &features_;
    std::vector<float> buffer_; /* the last samples, reflected ones included */
    int64_t next_ = 0;          /* where the next frame begins in it */
    int64_t total_ = 0;         /* samples so far */
    bool begun_ = false;        /* whether the reflected begin is there */
    Frames waiting_;            /* for the end of the utterance, if Features::wait() */
    std::vector<float> windowed_, power_;
    std::vector<double> space_;
};

}  // namespace asr

#endif
