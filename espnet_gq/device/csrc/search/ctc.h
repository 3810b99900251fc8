/* The searches of a model with connectionist temporal classification (CTC). */
#ifndef GQ_ASR_CTC_H
#define GQ_ASR_CTC_H

#include "search/search.h"

namespace asr {

/* The output layer of CTC; label 0 is blank. */
struct Ctc {
    Matrix output;      /* (tokens, encoded) */
    int64_t labels = 0; /* of the tokens, those before it may be output */

    static std::unique_ptr<Ctc> load(Loader &loader, int64_t encoded, int64_t tokens);

    /* Log-probabilities (n, tokens) of encoder frames (n, encoded). */
    void score(const Compute &compute, const float *frames, int64_t n,
               std::vector<float> &out) const;
};

/* The best label of each frame; repeated ones count once. Its score is the
 * log-probability of this one path. */
std::unique_ptr<Search> greedy_ctc(const Ctc &ctc, const Compute &compute);

/* Prefix beam search: the probability of a hypothesis is that of all its paths. */
std::unique_ptr<Search> prefix_ctc(const Ctc &ctc, const Compute &compute, int64_t beam);

}  // namespace asr

#endif
