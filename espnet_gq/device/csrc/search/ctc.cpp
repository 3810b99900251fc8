/* The output layer of CTC, and its greedy search. */
#include "search/ctc.h"

#include <algorithm>

namespace asr {

namespace {

enum { BLOCK = 16, BLANK = 0 }; /* frames that are scored at once */

class Greedy : public Search {
  public:
    Greedy(const Ctc &ctc, const Compute &compute) : ctc_(ctc), compute_(compute) {}

    void push(const float *frames, int64_t n) override {
        for (int64_t i = 0; i < n; i += BLOCK) {
            const int64_t count = std::min<int64_t>(BLOCK, n - i);
            ctc_.score(compute_, frames + i * ctc_.output.cols(), count, scores_);
            for (int64_t k = 0; k < count; ++k)
                read(scores_.data() + k * ctc_.output.rows());
        }
    }

    std::vector<Hypothesis> best(int64_t) const override { return {hypothesis_}; }

  private:
    void read(const float *logp) {
        const int64_t label = largest(logp, ctc_.labels);
        hypothesis_.score += logp[label];
        if (label != BLANK && label != last_) {
            hypothesis_.labels.push_back((int32_t)label);
            hypothesis_.frames.push_back(frame_);
        }
        last_ = label;
        ++frame_;
    }

    const Ctc &ctc_;
    const Compute &compute_;
    Hypothesis hypothesis_;
    int64_t frame_ = 0, last_ = BLANK;
    std::vector<float> scores_;
};

}  // namespace

std::unique_ptr<Ctc> Ctc::load(Loader &loader, int64_t encoded, int64_t tokens) {
    std::unique_ptr<Ctc> found(new Ctc);
    found->labels = loader.number("ctc.labels", 1, tokens);
    found->output = loader.matrix("ctc.output", tokens, encoded);
    return loader.ok() ? std::move(found) : nullptr;
}

void Ctc::score(const Compute &compute, const float *frames, int64_t n,
                std::vector<float> &out) const {
    out.resize((size_t)(n * output.rows()));
    output.apply(compute, frames, n, out.data());
    for (int64_t i = 0; i < n; ++i)
        log_softmax(out.data() + i * output.rows(), output.rows());
}

std::unique_ptr<Search> greedy_ctc(const Ctc &ctc, const Compute &compute) {
    return std::unique_ptr<Search>(new Greedy(ctc, compute));
}

}  // namespace asr
