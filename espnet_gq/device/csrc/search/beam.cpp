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
#include <utility>

#include "search/history.h"
#include "search/search.h"

namespace asr {

namespace {

enum {
    BLANK = 0,
    MOST_CACHED = 1000,  /* prefixes whose prediction is kept */
    MOST_EXPANDED = 1000 /* hypotheses of a frame; ESPnet has no such limit */
};

typedef std::shared_ptr<const Predicted> predicted_t;

struct Node {
    double score = 0.0;
    int64_t number = 0; /* of two equal ones the earlier is better */
    history_t history;  /* NULL at the begin */
    predicted_t before; /* after all labels but the last one; NULL at the begin */

    int32_t label() const { return history ? history->label : BLANK; }
    int64_t length() const { return 1 + (history ? history->length : 0); }
};

/* For heaps, whose top is the best. */
bool is_worse(const Node &a, const Node &b) {
    return a.score < b.score || (a.score == b.score && a.number > b.number);
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
        std::vector<const Node *> sorted;
        for (const Node &node : nodes_) sorted.push_back(&node);
        const bool normalized = transducer_.normalized;
        const auto rank = [normalized](const Node *node) {
            return normalized ? node->score / (double)node->length() : node->score;
        };
        std::stable_sort(sorted.begin(), sorted.end(), [&](const Node *a, const Node *b) {
            return rank(a) > rank(b);
        });
        std::vector<Hypothesis> found;
        for (size_t i = 0; i < sorted.size() && (int64_t)i < n; ++i)
            found.push_back(hypothesis_of(sorted[i]->score, sorted[i]->history));
        return found;
    }

  private:
    predicted_t after(const Node &node) {
        /* An entry keeps what its key points to, so that no other has its address. */
        const auto key = std::make_pair(node.before.get(), node.label());
        auto found = cache_.find(key);
        if (found != cache_.end()) return found->second.second;
        auto made = predict(transducer_, compute_, node.before.get(), node.label());
        cache_.emplace(key, std::make_pair(node.before, made));
        return made;
    }

    void step(const float *encoded) {
        if (cache_.size() > MOST_CACHED) cache_.clear();
        std::vector<Node> open, ended;
        std::vector<double> scores; /* of the ended, falling */
        open.swap(nodes_);
        for (Node &node : open) node.number = number_++;
        std::make_heap(open.begin(), open.end(), is_worse);
        dropped_ = -INFINITY;
        for (int64_t expanded = 1;; ++expanded) {
            std::pop_heap(open.begin(), open.end(), is_worse);
            ended.push_back(std::move(open.back()));
            open.pop_back();
            expand(&ended.back(), encoded, scores, open);
            const double limit =
                open.empty() ? dropped_ : std::max(dropped_, open.front().score);
            const auto sure = std::lower_bound(scores.begin(), scores.end(), limit,
                                               std::greater<double>());
            /* A limit of -inf: nothing is open, or scores are too small for numbers. */
            if (sure - scores.begin() < beam_ && expanded < MOST_EXPANDED &&
                limit > -INFINITY && !open.empty())
                continue;
            for (Node &node : ended)
                if (node.score > limit || sure == scores.begin())
                    nodes_.push_back(std::move(node));
            std::stable_sort(nodes_.begin(), nodes_.end(),
                             [](const Node &a, const Node &b) { return a.score < b.score; });
            return;
        }
    }

    /* Add the continuations of a hypothesis to the open ones, and blank to its score. */
    void expand(Node *node, const float *encoded, std::vector<double> &scores,
                std::vector<Node> &open) {
        const Joint &joint = transducer_.joint;
        const int64_t tokens = joint.tokens(), most = std::min(beam_, tokens - 1);
        predicted_t predicted = after(*node);
        logits_.resize((size_t)tokens);
        joint.logits(compute_, encoded, 1, predicted->joint.data(), logits_.data(),
                     space_);
        log_softmax(logits_.data(), tokens);
        const float *logp = logits_.data();
        const double before = node->score;
        node->score += logp[BLANK];
        scores.insert(std::upper_bound(scores.begin(), scores.end(), node->score,
                                       std::greater<double>()),
                      node->score);
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
            Node longer;
            longer.score = before + logp[order_[(size_t)i]];
            if (longer.score < worst) {
                dropped_ = std::max(dropped_, longer.score);
                break;
            }
            longer.number = number_++;
            longer.history = extended(node->history, order_[(size_t)i], frame_);
            longer.before = predicted;
            open.push_back(std::move(longer));
            std::push_heap(open.begin(), open.end(), is_worse);
        }
    }

    const Transducer &transducer_;
    const Compute &compute_;
    int64_t beam_;
    std::vector<Node> nodes_; /* the kept ones, the worst first */
    /* (before, label) -> (before, after). */
    std::map<std::pair<const Predicted *, int32_t>, std::pair<predicted_t, predicted_t>>
        cache_;
    double dropped_ = -INFINITY; /* the best score of a frame that was not kept open */
    int64_t frame_ = 0, number_ = 0;
    std::vector<float> encoded_, logits_, space_;
    std::vector<int32_t> order_;
};

}  // namespace

std::unique_ptr<Search> beam_transducer(const Transducer &transducer,
                                        const Compute &compute, int64_t beam) {
    return std::unique_ptr<Search>(new Beam(transducer, compute, beam));
}

}  // namespace asr
