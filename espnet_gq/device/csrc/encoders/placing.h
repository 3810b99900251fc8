/* How frames carry their positions. */
#ifndef GQ_ASR_PLACING_H
#define GQ_ASR_PLACING_H

#include "file/loader.h"
#include "layers/arena.h"
#include "layers/attention.h"
#include "layers/positions.h"

namespace asr {

struct Placing {
    enum Kind {
        ABSOLUTE, /* factor x + alpha e(i) */
        RELATIVE, /* factor x, and e(n - 1), ..., e(1 - n) for the attention */
        SHIFTED   /* factor x, and e(m - 1), ..., e(m - n), m = max(longest, n) */
    };
    Kind kind = ABSOLUTE;
    Positions positions;
    float factor = 1.0f, alpha = 1.0f;
    int64_t longest = 0; /* of SHIFTED */

    /* The settings encoder.positions and encoder.scaled: whether factor is sqrt(width),
     * else 1. The tensors encoder.positions.frequencies and, if alpha is not 1,
     * encoder.positions.alpha. */
    static Placing load(Loader &loader, int64_t width);

    AttentionKind attention() const {
        return kind == RELATIVE ? asr::RELATIVE : kind == SHIFTED ? asr::SHIFTED : PLAIN;
    }
    /* Place x (n, width), frames number `first` and on. */
    void place(float *x, int64_t n, int64_t first) const;
    /* The encodings for the attention of n frames, nullptr if it needs none. */
    const float *encodings(int64_t n, Arena &arena) const;
};

}  // namespace asr

#endif
