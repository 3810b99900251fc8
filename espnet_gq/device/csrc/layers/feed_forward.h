/* Two linear layers, or convolutions over time, with a function between them, applied to
 * some rows at a time: the inner values of a long utterance would take more memory than
 * all others. */
#ifndef GQ_ASR_FEED_FORWARD_H
#define GQ_ASR_FEED_FORWARD_H

#include <string>

#include "file/loader.h"
#include "layers/activation.h"
#include "layers/arena.h"
#include "layers/matrix.h"

namespace asr {

struct FeedForward {
    /* (units, taps of inner * width), (width, taps of outer * units): the values of the
     * first tap first, and as many frames before a frame as after it. */
    Matrix inner, outer;
    int64_t inner_taps = 1, outer_taps = 1;
    Activation activation = Activation::RELU;

    /* The matrices NAME.inner and NAME.outer, for `width` values per frame. */
    static FeedForward load(Loader &loader, const std::string &name, int64_t width,
                            int64_t inner_taps, int64_t outer_taps,
                            Activation activation);

    /* x, result: (n, width), not the same. */
    void apply(const Compute &compute, const float *x, int64_t n, Arena &arena,
               float *result) const;
};

}  // namespace asr

#endif
