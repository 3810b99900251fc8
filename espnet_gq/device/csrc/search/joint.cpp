#include "search/joint.h"

#include <math.h>

namespace asr {

Joint Joint::load(Loader &loader, int64_t encoded, int64_t predicted, int64_t tokens) {
    Joint joint;
    joint.activation = load_activation(loader, "joint.activation");
    joint.output = loader.matrix("joint.output", tokens, -1);
    joint.encoder = loader.matrix("joint.encoder", joint.width(), encoded);
    joint.predictor = loader.matrix("joint.predictor", joint.width(), predicted);
    return joint;
}

void Joint::logits(const Compute &compute, const float *encoded, int64_t m,
                   const float *predicted, float *logits,
                   std::vector<float> &space) const {
    const int64_t n = width();
    space.resize((size_t)(m * n));
    for (int64_t i = 0; i < m; ++i)
        for (int64_t k = 0; k < n; ++k)
            space[(size_t)(i * n + k)] = encoded[i * n + k] + predicted[k];
    activate(activation, space.data(), m * n);
    output.apply(compute, space.data(), m, logits);
}

void log_softmax(float *x, int64_t n) {
    const float most = x[largest(x, n)];
    double sum = 0.0;
    for (int64_t i = 0; i < n; ++i) sum += expf(x[i] - most);
    const float total = most + (float)log(sum);
    for (int64_t i = 0; i < n; ++i) {
        float value = x[i] - total; /* not a number where a weight was too large */
        x[i] = value == value ? value : -INFINITY;
    }
}

int64_t largest(const float *x, int64_t n) {
    int64_t best = 0;
    for (int64_t i = 1; i < n; ++i)
        if (x[i] > x[best]) best = i;
    return best;
}

}  // namespace asr
