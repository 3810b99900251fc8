/* Packing a stream of indices into planes, and a packed weight's values. */
#include <string.h>

#include "api.h"
#include "dispatch.h"
#include "packed/layout.h"
#include "packed/product.h"
#include "packed/weight.h"
#include "team.h"

using namespace gq;

namespace {

struct unpacking {
    const gq_weight *w;
    const instruction_set *set;
    int64_t first, count;
    float *out;
    tables t;
};

void unpack_stripe(const void *what, int64_t index) {
    const unpacking &u = *(const unpacking *)what;
    const gq_weight *w = u.w;
    int64_t stripe = u.first / ROWS + index, row = stripe * ROWS;
    const uint8_t *planes = stripe_at(w, stripe);
    int64_t rows = least(ROWS, u.count - index * ROWS);
    float scale[ROWS], part[COLS * ROWS];
    for (int64_t r = 0; r < rows; ++r) scale[r] = scale_of(w, row + r);
    for (int64_t c = 0; c < w->cols; c += COLS) {
        int64_t cols = least(COLS, w->cols - c);
        u.set->values[w->bits - 1](planes + c / COLS * block_bytes(w->bits), 1, &u.t, part);
        float *out = u.out + c * u.count + index * ROWS;
        for (int64_t j = 0; j < cols; ++j)
            for (int64_t r = 0; r < rows; ++r)
                out[j * u.count + r] = part[j * ROWS + r] * scale[r];
    }
}

}  // namespace

int64_t gq_planes_size(int64_t rows, int64_t cols, int bits) {
    return sizes_ok(rows, cols, bits) ? planes_bytes(rows, cols, bits) : -1;
}

int gq_fill_planes(const uint8_t *stream, int64_t rows, int64_t cols, int bits,
                   uint8_t *planes) {
    int64_t size = gq_planes_size(rows, cols, bits);
    if (size < 0 || (size > 0 && (!stream || !planes))) return 1;
    if (size) memset(planes, 0, (size_t)size);
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < cols; ++c)
            put_index(planes, r, c, cols, bits, stream_index(stream, r * cols + c, bits));
    return 0;
}

int gq_values(const gq_weight *w, int64_t first, int64_t count, float *out, int threads,
              int isa) {
    const instruction_set *set = instructions(isa);
    if (!weight_ok(w) || !set || first < 0 || first % ROWS || count < 0 ||
        first > w->rows || count > w->rows - first || (count > 0 && w->cols > 0 && !out))
        return 1;
    unpacking u = {w, set, first, count, out, tables_of(w, GQ_EXACT)};
    bool many = (double)count * (double)w->cols >= 1 << 16;
    run_long_tasks(unpack_stripe, &u, over(count, ROWS), many ? threads : 1);
    return 0;
}

int gq_rows(const gq_weight *w, const int64_t *row, int64_t n, float *out) {
    if (!weight_ok(w) || n < 0 || (n > 0 && (!row || (w->cols > 0 && !out)))) return 1;
    for (int64_t i = 0; i < n; ++i)
        if (row[i] < 0 || row[i] >= w->rows) return 1;
    for (int64_t i = 0; i < n; ++i, out += w->cols) {
        float scale = scale_of(w, row[i]);
        for (int64_t c = 0; c < w->cols; ++c)
            out[c] =
                scale * w->codebook[get_index(w->planes, row[i], c, w->cols, w->bits)];
    }
    return 0;
}
