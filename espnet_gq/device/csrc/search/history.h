/* The labels of a hypothesis, shared with those that begin as it does. */
#ifndef GQ_ASR_HISTORY_H
#define GQ_ASR_HISTORY_H

#include <stdint.h>

#include <memory>

#include "search/search.h"

namespace asr {

struct History;
typedef std::shared_ptr<const History> history_t;

struct History {
    int32_t label;
    int64_t frame;  /* of the encoder, that the label came with */
    int64_t length; /* labels, with this one */
    mutable history_t before;

    History(int32_t of_label, int64_t of_frame, history_t of_before)
        : label(of_label),
          frame(of_frame),
          length(of_before ? of_before->length + 1 : 1),
          before(std::move(of_before)) {}
    ~History();
};

/* `before` with one label more. */
history_t extended(const history_t &before, int32_t label, int64_t frame);

/* The hypothesis of a history, NULL for none. */
Hypothesis hypothesis_of(double score, const history_t &history);

}  // namespace asr

#endif
