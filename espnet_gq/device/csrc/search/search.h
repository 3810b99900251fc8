/* A search: encoder frames in, hypotheses out, continued from chunk to chunk. */
#ifndef GQ_ASR_SEARCH_H
#define GQ_ASR_SEARCH_H

#include <stdint.h>

#include <memory>
#include <vector>

#include "layers/matrix.h"
#include "predictors/predictor.h"
#include "search/joint.h"

namespace asr {

struct Hypothesis {
    double score = 0.0;          /* log-probability */
    std::vector<int32_t> labels; /* without blank */
    std::vector<int64_t> frames; /* number of the encoder frame that each came with */
};

class Search {
  public:
    virtual ~Search() = default;
    /* Read encoder frames (n, outputs of the encoder). */
    virtual void push(const float *frames, int64_t n) = 0;
    /* No frames follow. Called once. */
    virtual void finish() {}
    /* The n best so far, or fewer: at least one, the best first. */
    virtual std::vector<Hypothesis> best(int64_t n) const = 0;
};

/* What the searches of a transducer need; label 0 is blank. */
struct Transducer {
    std::unique_ptr<Predictor> predictor;
    Joint joint;
    bool greedy = true;     /* a beam of 1 reads at most one label per frame */
    bool normalized = true; /* the best hypotheses are those of the best mean score */

    static std::unique_ptr<Transducer> load(Loader &loader, int64_t encoded,
                                            int64_t tokens);
};

/* After a prefix of labels: the state of the predictor, and its part of the joint. */
struct Predicted {
    std::vector<float> state; /* (predictor.state) */
    std::vector<float> joint; /* (joint.width()) */
};

/* Read `label` after `before`, NULL at the begin. */
std::shared_ptr<const Predicted> predict(const Transducer &transducer,
                                         const Compute &compute, const Predicted *before,
                                         int64_t label);

/* The greedy search: at most one label per frame. */
std::unique_ptr<Search> greedy_transducer(const Transducer &transducer,
                                          const Compute &compute);

/* ESPnet's "default" beam search, that of Graves (arXiv 1211.3711). */
std::unique_ptr<Search> beam_transducer(const Transducer &transducer,
                                        const Compute &compute, int64_t beam);

}  // namespace asr

#endif
