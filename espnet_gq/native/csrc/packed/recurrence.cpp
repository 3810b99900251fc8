/* The time loop of a recurrent layer. */
#include <stdlib.h>
#include <string.h>

#include "api.h"
#include "dispatch.h"
#include "packed/product.h"
#include "packed/weight.h"

using namespace gq;

namespace {

/* Weights, sizes and mode; the arguments are those of gq_recurrence. */
bool is_valid(int cell, const gq_weight *hh, const gq_weight *hr, int64_t units,
              int64_t steps, int64_t ld, int mode) {
    if ((cell != GQ_LSTM && cell != GQ_GRU) || !weight_ok(hh) || steps < 0) return false;
    if (units < 1 || units >= MOST / 8) return false;
    if (hh->rows != (cell == GQ_LSTM ? 4 : 3) * units || ld < hh->cols) return false;
    if (hr ? cell != GQ_LSTM || !weight_ok(hr) || hr->cols != units ||
                 hr->rows != hh->cols
           : hh->cols != units)
        return false;
    if (mode == GQ_INT8) return units <= INT8_COLS && hh->cols <= INT8_COLS;
    return mode == GQ_EXACT;
}

/* Return the sum of the sequences of all steps, -1 where they are out of range. */
int64_t sum_of(const int64_t *active, int64_t steps, int64_t width) {
    int64_t total = 0, most = MOST / (width + COLS);
    for (int64_t t = 0; t < steps; ++t) {
        if (active[t] < 1 || active[t] > most) return -1;
        most = active[t];
        total += most;
    }
    return total;
}

}  // namespace

int gq_recurrence(int cell, const gq_weight *hh, const gq_weight *hr, int64_t units,
                  const float *input, const int64_t *active, int64_t steps, int reverse,
                  float *h, float *c, float *out, int64_t ld, int mode, int threads,
                  int isa) {
    const instruction_set *set = instructions(isa);
    if (!set || !is_valid(cell, hh, hr, units, steps, ld, mode)) return 1;
    if (steps == 0) return 0;
    if (!input || !active || !h || !out || (cell == GQ_LSTM && !c)) return 1;
    const int64_t outputs = hh->cols, width = outputs > units ? outputs : units;
    const int64_t total = sum_of(active, steps, width);
    if (total < 0) return 1;
    int64_t batch = active[0], raw = hr ? batch * units : 0;
    int64_t bytes = workspace(width, batch, mode);
    float *memory =
        (float *)malloc((size_t)(4 * (batch * hh->rows + raw + hh->rows) + bytes) + 1);
    if (!memory) return 2;
    float *hidden = memory, *unprojected = hidden + batch * hh->rows;
    float *both = unprojected + raw;
    void *space = both + hh->rows;
    const tables of_hh = tables_of(hh, mode), of_hr = tables_of(hr ? hr : hh, mode);
    int64_t row = reverse ? total : 0;
    for (int64_t step = 0; step < steps; ++step) {
        int64_t n = active[reverse ? steps - 1 - step : step];
        if (reverse) row -= n;
        linear(hh, &of_hh, h, n, hidden, mode, threads, set, space);
        for (int64_t i = 0; i < n; ++i) {
            const float *from_input = input + (row + i) * hh->rows;
            const float *from_hidden = hidden + i * hh->rows;
            if (cell == GQ_LSTM) {
                for (int64_t k = 0; k < hh->rows; ++k)
                    both[k] = from_input[k] + from_hidden[k];
                set->lstm(both, c + i * units, hr ? unprojected + i * units
                                                  : h + i * units, units);
            } else {
                set->gru(from_input, from_hidden, h + i * units, units);
            }
        }
        if (hr) linear(hr, &of_hr, unprojected, n, h, mode, threads, set, space);
        for (int64_t i = 0; i < n; ++i)
            memcpy(out + (row + i) * ld, h + i * outputs, (size_t)outputs * 4);
        if (!reverse) row += n;
    }
    free(memory);
    return 0;
}
