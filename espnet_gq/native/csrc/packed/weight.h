/* A gq_weight's sizes, and whether they are valid. */
#ifndef ESPNET_GQ_WEIGHT_H
#define ESPNET_GQ_WEIGHT_H

#include <stdint.h>

#include "api.h"
#include "packed/layout.h"
#include "sizes.h"

namespace gq {

/* int8 products of more columns would not fit into 32 bits. */
constexpr int64_t INT8_COLS = 1 << 16;

inline bool sizes_ok(int64_t rows, int64_t cols, int bits) {
    return rows >= 0 && cols >= 0 && bits >= 1 && bits <= 8 && rows < MOST &&
           cols < MOST && (cols == 0 || over(rows, ROWS) * ROWS < MOST / (cols + COLS));
}

inline bool weight_ok(const gq_weight *w) {
    return w && sizes_ok(w->rows, w->cols, w->bits) && w->scales >= 1 &&
           w->rows % w->scales == 0 && w->codebook && w->scale &&
           (w->planes || w->rows == 0 || w->cols == 0);
}

inline int64_t blocks(const gq_weight *w) { return over(w->cols, COLS); }
inline int64_t stripes(const gq_weight *w) { return over(w->rows, ROWS); }

inline const uint8_t *stripe_at(const gq_weight *w, int64_t stripe) {
    return w->planes + stripe * stripe_bytes(w->cols, w->bits);
}

inline float scale_of(const gq_weight *w, int64_t row) {
    return w->scale[w->scales == 1 ? 0 : row / (w->rows / w->scales)];
}

}  // namespace gq

#endif
