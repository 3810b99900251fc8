/* Prefix beam search of CTC (Hannun et al., arXiv 1408.2873).
 *
 * A frame after the other, each prefix keeps the probability of the paths that end in
 * blank and of those that end in its last label. A prefix that leaves the beam takes its
 * paths with it; when the utterance has ended, the remaining ones get the probability of
 * all their paths, as far as labels were among those that prefixes were extended by.
 */
#include <math.h>

#include <algorithm>
#include <map>

#include "search/ctc.h"

namespace asr {

namespace {

enum {
    BLANK = 0,
    BLOCK = 16,       /* frames that are scored at once */
    LEAST_TRIED = 16, /* labels that each prefix is extended by, at least */
};

const double NEVER = -INFINITY;

/* ln(e^a + e^b) */
double plus(double a, double b) {
    if (a < b) std::swap(a, b);
    return b == NEVER ? a : a + log1p(exp(b - a));
}

/* A prefix of labels: one label more than another prefix. */
struct Prefix {
    int32_t before, label;
};

/* The frames that labels came with, the last one first. */
struct Times {
    int32_t before;
    int64_t frame;
};

/* The log-probability of a label in a frame. */
struct Seen {
    int32_t label;
    float logp;
    bool operator<(const Seen &other) const { return label < other.label; }
};

/* Paths of a prefix that end in the same way. */
struct Paths {
    double all = NEVER;  /* their log-probability */
    double best = NEVER; /* that of the best one */
    int32_t times = -1;  /* when it reads its labels */
};

struct Candidate {
    int32_t prefix = -1;           /* negative if it is new: */
    int32_t before = -1, label = BLANK;
    Paths blank, last;
    double score = 0.0; /* of both */
};

void extend(const Paths &from, double logp, Paths &to) {
    to.all = plus(to.all, from.all + logp);
    if (from.best + logp > to.best) {
        to.best = from.best + logp;
        to.times = from.times;
    }
}

class PrefixBeam : public Search {
  public:
    PrefixBeam(const Ctc &ctc, const Compute &compute, int64_t beam)
        : ctc_(ctc), compute_(compute), beam_((size_t)beam) {
        prefixes_.push_back({-1, BLANK});
        Candidate empty;
        empty.prefix = 0;
        empty.blank.all = empty.blank.best = 0.0;
        active_.push_back(empty);
    }

    void push(const float *frames, int64_t n) override {
        for (int64_t i = 0; i < n; i += BLOCK) {
            const int64_t count = std::min<int64_t>(BLOCK, n - i);
            ctc_.score(compute_, frames + i * ctc_.output.cols(), count, scores_);
            for (int64_t k = 0; k < count; ++k, ++frame_)
                step(scores_.data() + k * ctc_.output.rows());
        }
    }

    void finish() override {
        for (Candidate &one : active_)
            one.score = std::max(one.score, of_all_paths(labels_of(one.prefix)));
        std::stable_sort(active_.begin(), active_.end(),
                         [](const Candidate &a, const Candidate &b) {
                             return a.score > b.score;
                         });
    }

    std::vector<Hypothesis> best(int64_t n) const override {
        std::vector<Hypothesis> found;
        for (size_t i = 0; i < active_.size() && (int64_t)i < n; ++i) {
            const Candidate &one = active_[i];
            Hypothesis hypothesis;
            hypothesis.score = one.score;
            hypothesis.labels = labels_of(one.prefix);
            const bool by_blank = one.blank.best > one.last.best;
            for (int32_t t = by_blank ? one.blank.times : one.last.times; t >= 0;
                 t = times_[(size_t)t].before)
                hypothesis.frames.push_back(times_[(size_t)t].frame);
            std::reverse(hypothesis.frames.begin(), hypothesis.frames.end());
            found.push_back(std::move(hypothesis));
        }
        return found;
    }

  private:
    std::vector<int32_t> labels_of(int32_t prefix) const {
        std::vector<int32_t> labels;
        for (int32_t p = prefix; p > 0; p = prefixes_[(size_t)p].before)
            labels.push_back(prefixes_[(size_t)p].label);
        std::reverse(labels.begin(), labels.end());
        return labels;
    }

    /* The log-probability of labels: the sum over their paths through all frames. */
    double of_all_paths(const std::vector<int32_t> &labels) const {
        const size_t n = labels.size(), tried = tried_.size();
        std::vector<double> blank(n + 1, NEVER), last(n + 1, NEVER); /* after i labels */
        blank[0] = 0.0;
        for (size_t t = 0; t < blanks_.size(); ++t) {
            const Seen *seen = seen_.data() + t * tried;
            for (size_t i = n;; --i) { /* backwards: i - 1 is that of the frame before */
                const double all = plus(blank[i], last[i]);
                if (i > 0) {
                    const Seen wanted = {labels[i - 1], 0.0f};
                    const Seen *found = std::lower_bound(seen, seen + tried, wanted);
                    const bool known = found < seen + tried && !(wanted < *found);
                    double from = plus(last[i], blank[i - 1]);
                    if (i < 2 || labels[i - 1] != labels[i - 2])
                        from = plus(from, last[i - 1]);
                    last[i] = known ? from + found->logp : NEVER;
                }
                blank[i] = all + blanks_[t];
                if (i == 0) break;
            }
        }
        return plus(blank[n], last[n]);
    }

    /* Read the log-probabilities of a frame. */
    void step(const float *logp) {
        choose(logp);
        blanks_.push_back(logp[BLANK]);
        for (int32_t label : tried_) seen_.push_back({label, logp[label]});
        std::sort(seen_.end() - (int64_t)tried_.size(), seen_.end());
        next_.clear();
        for (const Candidate &one : active_) stay(one, logp);
        const size_t stayed = next_.size();
        for (const Candidate &one : active_) {
            for (size_t i = 0; i < stayed; ++i) { /* prefixes that are there already */
                const Prefix &longer = prefixes_[(size_t)next_[i].prefix];
                if (longer.before == one.prefix)
                    read(one, longer.label, logp[longer.label], next_[i]);
            }
            for (int32_t label : tried_) {
                const auto known = numbers_.find({one.prefix, label});
                const auto is_it = [&](const Candidate &c) {
                    return c.prefix == known->second;
                };
                if (known != numbers_.end() &&
                    std::any_of(next_.begin(), next_.begin() + (int64_t)stayed, is_it))
                    continue;
                Candidate made;
                made.before = one.prefix;
                made.label = label;
                read(one, label, logp[label], made);
                next_.push_back(made);
            }
        }
        for (Candidate &one : next_) one.score = plus(one.blank.all, one.last.all);
        next_.erase(std::remove_if(next_.begin(), next_.end(),
                                   [](const Candidate &c) { return c.score == NEVER; }),
                    next_.end());
        if (next_.empty()) return; /* a frame without probabilities */
        const size_t kept = std::min(beam_, next_.size());
        std::partial_sort(next_.begin(), next_.begin() + (int64_t)kept, next_.end(),
                          [](const Candidate &a, const Candidate &b) {
                              return a.score > b.score;
                          });
        next_.resize(kept);
        for (Candidate &one : next_) keep(one);
        active_.swap(next_);
    }

    /* The labels that prefixes are extended by: the best ones of this frame. */
    void choose(const float *logp) {
        const size_t all = (size_t)ctc_.labels - 1;
        const size_t most = std::min(all, std::max<size_t>(2 * beam_, LEAST_TRIED));
        tried_.resize(all);
        for (size_t i = 0; i < all; ++i) tried_[i] = (int32_t)i + 1;
        std::partial_sort(tried_.begin(), tried_.begin() + (int64_t)most, tried_.end(),
                          [logp](int32_t a, int32_t b) {
                              return logp[a] > logp[b] || (logp[a] == logp[b] && a < b);
                          });
        tried_.resize(most);
    }

    /* The same prefix: by blank, or by its last label once more. */
    void stay(const Candidate &one, const float *logp) {
        Candidate made;
        made.prefix = one.prefix;
        extend(one.blank, logp[BLANK], made.blank);
        extend(one.last, logp[BLANK], made.blank);
        if (one.prefix > 0)
            extend(one.last, logp[prefixes_[(size_t)one.prefix].label], made.last);
        next_.push_back(made);
    }

    /* A label after a prefix. The prefix's own last label needs a blank between. */
    void read(const Candidate &one, int32_t label, double logp, Candidate &to) {
        Paths paths;
        extend(one.blank, logp, paths);
        if (one.prefix == 0 || label != prefixes_[(size_t)one.prefix].label)
            extend(one.last, logp, paths);
        to.last.all = plus(to.last.all, paths.all);
        if (paths.best > to.last.best) {
            to.last.best = paths.best;
            to.last.times = -3 - paths.times; /* with this frame, see keep() */
        }
    }

    /* Number a candidate's prefix, and the frame that it has read a label in. */
    void keep(Candidate &one) {
        if (one.prefix < 0) {
            const auto added = numbers_.emplace(std::make_pair(one.before, one.label),
                                                (int32_t)prefixes_.size());
            if (added.second) prefixes_.push_back({one.before, one.label});
            one.prefix = added.first->second;
        }
        if (one.last.times < -1) {
            times_.push_back({-3 - one.last.times, frame_});
            one.last.times = (int32_t)times_.size() - 1;
        }
    }

    const Ctc &ctc_;
    const Compute &compute_;
    size_t beam_;
    int64_t frame_ = 0;
    std::vector<Prefix> prefixes_; /* number 0 is the empty one */
    std::vector<Times> times_;
    std::map<std::pair<int32_t, int32_t>, int32_t> numbers_; /* of (before, label) */
    std::vector<Candidate> active_, next_;                   /* the best first */
    std::vector<int32_t> tried_;
    std::vector<float> blanks_; /* log-probabilities of blank, per frame */
    std::vector<Seen> seen_;    /* those of the labels that were tried, by number */
    std::vector<float> scores_;
};

}  // namespace

std::unique_ptr<Search> prefix_ctc(const Ctc &ctc, const Compute &compute, int64_t beam) {
    return std::unique_ptr<Search>(new PrefixBeam(ctc, compute, beam));
}

}  // namespace asr
