#include "search/history.h"

#include <utility>

namespace asr {

/* A loop: the destructors of a long history, each called by the last, would need a stack
 * as long as it. */
History::~History() {
    history_t next = std::move(before);
    while (next && next.use_count() == 1) {
        history_t after = std::move(next->before);
        next = std::move(after);
    }
}

history_t extended(const history_t &before, int32_t label, int64_t frame) {
    return std::make_shared<const History>(label, frame, before);
}

Hypothesis hypothesis_of(double score, const history_t &history) {
    Hypothesis found;
    found.score = score;
    int64_t at = history ? history->length : 0;
    found.labels.resize((size_t)at);
    found.frames.resize((size_t)at);
    for (const History *one = history.get(); one; one = one->before.get()) {
        --at;
        found.labels[(size_t)at] = one->label;
        found.frames[(size_t)at] = one->frame;
    }
    return found;
}

}  // namespace asr
