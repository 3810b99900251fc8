/* The joint network of a transducer:
 *
 *     logits = W_out activation(W_enc encoded + b_enc + W_dec predicted [+ b_dec]) + b_out
 */
#ifndef GQ_ASR_JOINT_H
#define GQ_ASR_JOINT_H

#include <vector>

#include "file/loader.h"
#include "layers/activation.h"
#include "layers/matrix.h"

namespace asr {

struct Joint {
    Matrix encoder, predictor, output;
    Activation activation = Activation::TANH;

    static Joint load(Loader &loader, int64_t encoded, int64_t predicted, int64_t tokens);

    int64_t width() const { return output.cols(); }
    int64_t tokens() const { return output.rows(); }

    /* logits: (m, tokens()) of encoded (m, width()) and predicted (width()), to which
     * `encoder` and `predictor` were applied. */
    void logits(const Compute &compute, const float *encoded, int64_t m,
                const float *predicted, float *logits, std::vector<float> &space) const;
};

/* Turn logits (n) into log-probabilities, in place. */
void log_softmax(float *x, int64_t n);

/* Number of the largest of x (n), the first of several. */
int64_t largest(const float *x, int64_t n);

}  // namespace asr

#endif
