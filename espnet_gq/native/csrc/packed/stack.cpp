/* A stack of recurrent layers in one call: for small layers, calls take as long as the
 * products. */
#include <stdlib.h>

#include "api.h"
#include "sizes.h"

using namespace gq;

namespace {

struct shape_t {
    int64_t rows, outputs, width; /* of a matrix, a direction and a layer */
};

bool fits(const gq_direction &d, bool projected, const shape_t &shape, int64_t inputs) {
    return d.ih && d.hh && d.ih->rows == shape.rows && d.ih->cols == inputs &&
           d.hh->rows == shape.rows && d.hh->cols == shape.outputs &&
           !d.hr == !projected && !d.b_ih == !d.b_hh;
}

/* Return the sum of `active`, -1 where memory for it is out of range. */
int64_t sum_of(const int64_t *active, int64_t steps, int64_t width) {
    int64_t total = 0;
    for (int64_t t = 0; t < steps; ++t) {
        if (active[t] < 1 || active[t] >= MOST / width - total) return -1;
        total += active[t];
    }
    return total;
}

}  // namespace

int gq_stack(int cell, const gq_direction *directions, int64_t layers, int64_t each,
             int64_t units, const float *x, const int64_t *active, int64_t steps,
             float *h, float *c, float *out, int mode, int threads, int isa) {
    if ((cell != GQ_LSTM && cell != GQ_GRU) || !directions || layers < 1 || each < 1 ||
        each > 2 || layers >= MOST / 2 || steps < 0 || units < 1 || !directions->ih ||
        !directions->hh)
        return 1;
    const int64_t inputs = directions->ih->cols;
    const bool projected = directions->hr;
    const shape_t shape = {directions->hh->rows, directions->hh->cols,
                           each * directions->hh->cols};
    if (shape.rows < 1 || shape.outputs < 1 || shape.rows >= MOST || shape.width >= MOST)
        return 1;
    for (int64_t i = 0; i < layers * each; ++i)
        if (!fits(directions[i], projected, shape, i < each ? inputs : shape.width))
            return 1;
    if (steps == 0) return 0;
    if (!x || !active || !h || !out || (cell == GQ_LSTM && !c)) return 1;
    const int64_t total = sum_of(active, steps, 2 * (shape.rows + shape.width));
    if (total < 0) return 1;
    /* The layers' results alternate between `out`, which gets the last, and `between`. */
    float *gates = (float *)malloc(
        4 * (size_t)(total * (shape.rows + (layers > 1 ? shape.width : 0)) + shape.rows));
    if (!gates) return 2;
    float *bias = gates + total * shape.rows, *between = bias + shape.rows;
    int status = 0;
    for (int64_t i = 0; i < layers * each && !status; ++i) {
        const gq_direction &d = directions[i];
        const int64_t layer = i / each, direction = i % each, left = layers - 1 - layer;
        float *to = left % 2 ? between : out;
        const float *from = layer == 0 ? x : left % 2 ? out : between;
        gq_weight ih = *d.ih, hh = *d.hh;
        ih.bias = d.b_ih;
        hh.bias = cell == GQ_GRU ? d.b_hh : nullptr;
        if (cell == GQ_LSTM && d.b_ih) {
            for (int64_t r = 0; r < shape.rows; ++r) bias[r] = d.b_ih[r] + d.b_hh[r];
            ih.bias = bias;
        }
        status = gq_linear(&ih, from, total, gates, mode, threads, isa);
        if (status) break;
        status = gq_recurrence(cell, &hh, d.hr, units, gates, active, steps,
                               (int)direction, h + i * active[0] * shape.outputs,
                               c ? c + i * active[0] * units : nullptr,
                               to + direction * shape.outputs, shape.width, mode, threads,
                               isa);
    }
    free(gates);
    return status;
}
