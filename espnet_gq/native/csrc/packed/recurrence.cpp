/* The time loop of a recurrent layer. */
#include <stdlib.h>
#include <string.h>

#include "api.h"
#include "dispatch.h"
#include "packed/product.h"
#include "packed/weight.h"

using namespace gq;

int gq_recurrence(int cell, const gq_weight *hh, const gq_weight *hr, int64_t units,
                  const float *input, const int64_t *active, int64_t steps, int reverse,
                  float *h, float *c, float *out, int64_t ld, int mode, int threads,
                  int isa) {
    const instruction_set *set = instructions(isa);
    const int64_t gates = cell == GQ_LSTM ? 4 : 3;
    if ((cell != GQ_LSTM && cell != GQ_GRU) || !weight_ok(hh) || !set || units < 1 ||
        units >= MOST / 8 ||
        hh->rows != gates * units || steps < 0 || (hr && cell != GQ_LSTM) ||
        (hr && (!weight_ok(hr) || hr->cols != units || hr->rows != hh->cols)) ||
        (!hr && hh->cols != units) || ld < hh->cols ||
        (mode != GQ_EXACT && mode != GQ_INT8) ||
        (mode == GQ_INT8 && (units > INT8_COLS || hh->cols > INT8_COLS)) ||
        (steps > 0 && (!input || !active || !h || !out || (cell == GQ_LSTM && !c))))
        return 1;
    int64_t outputs = hh->cols, total = 0;
    int64_t width = outputs > units ? outputs : units;
    for (int64_t t = 0; t < steps; ++t) {
        if (active[t] < 1 || active[t] > (t ? active[t - 1] : MOST / (width + COLS)))
            return 1;
        total += active[t];
    }
    if (steps == 0) return 0;
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
