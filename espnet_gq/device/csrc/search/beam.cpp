/* The beam search of a transducer, as ESPnet's BeamSearchTransducer does it by default.
 *
 * For each frame, the best hypothesis is expanded by blank, which ends it for this
 * frame, and by the best labels; until as many ended ones as the beam is wide are better
 * than all that can still be expanded.
 */
#include <math.h>

#include <algorithm>
#include <functional>
#include <map>

#include "search/search.h"

namespace asr {

namespace {

enum {
    BLANK = 0,
    MOST_CACHED = 1000,  /* prefixes whose prediction is kept */
    MOST_EXPANDED = 2000 /* hypotheses of a frame; ESPnet has no such limit */
};

struct Node {
    Hypothesis hypothesis;
    /* After all labels but the last one; NULL at the begin. */
    std::shared_ptr<const Predicted> before;
};

bool scores_less(const Node &a, const Node &b) {
    return a.hypothesis.score < b.hypothesis.score;
}

class Beam : public Search {
  public:
    Beam(const Transducer &transducer, const Compute &compute, int64_t beam)
        : transducer_(transducer),
          compute_(compute),
          beam_(std::min(beam, transducer.joint.tokens())),
          nodes_(1) {}

    void push(const float *frames, int64_t n) override {
        const Joint &joint = transducer_.joint;
        encoded_.resize((size_t)(n * joint.width()));
        joint.encoder.apply(compute_, frames, n, encoded_.data());
        for (int64_t i = 0; i < n; ++i, ++frame_)
            step(encoded_.data() + i * joint.width());
    }

    std::vector<Hypothesis> best(int64_t n) const override {
        std::vector<const Hypothesis *> sorted;
        for (const Node &node : nodes_) sorted.push_back(&node.hypothesis);
        std::stable_sort(sorted.begin(), sorted.end(),
                         [](const Hypothesis *a, const Hypothesis *b) {
                             return a->score / (double)(a->labels.size() + 1) >
                                    b->score / (double)(b->labels.size() + 1);
                         });
        std::vector<Hypothesis> found;
        for (size_t i = 0; i < sorted.size() && (int64_t)i < n; ++i)
            found.push_back(*sorted[i]);
        return found;
    }

  private:
    std::shared_ptr<const Predicted> after(const Node &node) {
        auto found = cache_.find(node.hypothesis.labels);
        if (found != cache_.end()) return found->second;
        const std::vector<int32_t> &labels = node.hypothesis.labels;
        auto made = predict(transducer_, compute_, node.before.get(),
                            labels.empty() ? BLANK : labels.back());
        cache_.emplace(labels, made);
        return made;
    }

    /* Number of the best of these, the first of several. */
    static size_t best_of(const std::vector<Node> &nodes) {
        return (size_t)(std::max_element(nodes.begin(), nodes.end(), scores_less) -
                        nodes.begin());
    }

    void step(const float *encoded) {
        if (cache_.size() > MOST_CACHED) cache_.clear();
        std::vector<Node> open, ended;
        std::vector<double> scores; /* of the ended, falling */
        open.swap(nodes_);
        dropped_ = -INFINITY;
        for (int64_t expanded = 1;; ++expanded) {
            const size_t chosen = best_of(open);
            const Node node = std::move(open[chosen]);
            open.erase(open.begin() + (int64_t)chosen);
            ended.push_back(node);
            expand(node, encoded, scores, open, &ended.back().hypothesis.score);
            double limit = dropped_;
            if (!open.empty()) limit = std::max(limit, open[best_of(open)].hypothesis.score);
            const auto sure = std::lower_bound(scores.begin(), scores.end(), limit,
                                               std::greater<double>());
            /* A limit of -inf: nothing is open, or scores are too small for numbers. */
            if (sure - scores.begin() < beam_ && expanded < MOST_EXPANDED &&
                limit > -INFINITY)
                continue;
            for (Node &one : ended)
                if (one.hypothesis.score > limit || sure == scores.begin())
                    nodes_.push_back(std::move(one));
            std::stable_sort(nodes_.begin(), nodes_.end(), scores_less);
            return;
        }
    }

    /* Add the continuations of a hypothesis to the open ones, and blank to its score. */
    void expand(const Node &node, const float *encoded, std::vector<double> &scores,
                std::vector<Node> &open, double *score) {
        const Joint &joint = transducer_.joint;
        const int64_t tokens = joint.tokens(), most = std::min(beam_, tokens - 1);
        std::shared_ptr<const Predicted> predicted = after(node);
        logits_.resize((size_t)tokens);
        joint.logits(compute_, encoded, 1, predicted->joint.data(), logits_.data(),
                     space_);
        log_softmax(logits_.data(), tokens);
        const float *logp = logits_.data();
        *score += logp[BLANK];
        scores.insert(std::upper_bound(scores.begin(), scores.end(), *score,
                                       std::greater<double>()),
                      *score);
        order_.resize((size_t)(tokens - 1));
        for (int64_t k = 1; k < tokens; ++k) order_[(size_t)(k - 1)] = (int32_t)k;
        std::partial_sort(order_.begin(), order_.begin() + most, order_.end(),
                          [logp](int32_t a, int32_t b) {
                              return logp[a] > logp[b] || (logp[a] == logp[b] && a < b);
                          });
        /* What is worse than enough ended ones is never expanded: only its score counts. */
        const bool enough = (int64_t)scores.size() >= beam_;
        const double worst = enough ? scores[(size_t)(beam_ - 1)] : -INFINITY;
        for (int64_t i = 0; i < most; ++i) {
            const int32_t label = order_[(size_t)i];
            const double longer_score = node.hypothesis.score + logp[label];
            if (longer_score < worst) {
                dropped_ = std::max(dropped_, longer_score);
                break;
            }
            Node longer;
            longer.hypothesis = node.hypothesis;
            longer.hypothesis.score = longer_score;
            longer.hypothesis.labels.push_back(label);
            longer.hypothesis.frames.push_back(frame_);
            longer.before = predicted;
            open.push_back(std::move(longer));
        }
    }

    const Transducer &transducer_;
    const Compute &compute_;
    int64_t beam_;
    std::vector<Node> nodes_; /* the kept ones, the worst first */
    std::map<std::vector<int32_t>, std::shared_ptr<const Predicted>> cache_;
    double dropped_ = -INFINITY; /* the best score of a frame that was not kept open */
    int64_t frame_ = 0;
    std::vector<float> encoded_, logits_, space_;
    std::vector<int32_t> order_;
};

}  // namespace

std::unique_ptr<Search> beam_transducer(const Transducer &transducer,
                                        const Compute &compute, int64_t beam) {
    return std::unique_ptr<Search>(new Beam(transducer, compute, beam));
}

}  // namespace asr
