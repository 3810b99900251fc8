/* The greedy search of a transducer. */
#include <algorithm>

#include "search/search.h"

namespace asr {

namespace {

/* Frames that are scored in one batch after each label. */
enum { BLOCK = 8, BLANK = 0 };

class Greedy : public Search {
  public:
    Greedy(const Transducer &transducer, const Compute &compute)
        : transducer_(transducer), compute_(compute) {
        predicted_ = predict(transducer_, compute_, nullptr, BLANK);
    }

    void push(const float *frames, int64_t n) override {
        const Joint &joint = transducer_.joint;
        while (n > 0) {
            const int64_t count = std::min(n, (int64_t)BLOCK);
            encoded_.resize((size_t)(count * joint.width()));
            joint.encoder.apply(compute_, frames, count, encoded_.data());
            block(count);
            frames += count * joint.encoder.cols();
            n -= count;
        }
    }

    std::vector<Hypothesis> best(int64_t) const override { return {hypothesis_}; }

  private:
    void block(int64_t count) {
        const Joint &joint = transducer_.joint;
        const int64_t tokens = joint.tokens();
        for (int64_t at = 0; at < count;) {
            logits_.resize((size_t)((count - at) * tokens));
            joint.logits(compute_, encoded_.data() + at * joint.width(), count - at,
                         predicted_->joint.data(), logits_.data(), space_);
            int64_t label = BLANK;
            float *row = logits_.data();
            for (; at < count && label == BLANK; ++at, row += tokens)
                label = largest(row, tokens);
            if (label == BLANK) break;
            row -= tokens;
            log_softmax(row, tokens);
            hypothesis_.score += row[label];
            hypothesis_.labels.push_back((int32_t)label);
            hypothesis_.frames.push_back(frame_ + at - 1);
            predicted_ = predict(transducer_, compute_, predicted_.get(), label);
        }
        frame_ += count;
    }

    const Transducer &transducer_;
    const Compute &compute_;
    std::shared_ptr<const Predicted> predicted_;
    Hypothesis hypothesis_;
    int64_t frame_ = 0;
    std::vector<float> encoded_, logits_, space_;
};

}  // namespace

std::unique_ptr<Search> greedy_transducer(const Transducer &transducer,
                                          const Compute &compute) {
    return std::unique_ptr<Search>(new Greedy(transducer, compute));
}

}  // namespace asr
