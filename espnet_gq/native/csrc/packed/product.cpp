/* Tiles, threads and scales of a product. */
#include "packed/product.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "dispatch.h"
#include "packed/weight.h"
#include "team.h"

namespace gq {
namespace {

/* Rows of the tile that starts at row i of m: 1, 2, 4 or 8, some past the end. */
int tile_log2(int64_t left) { return left >= 5 ? 3 : left >= 3 ? 2 : left >= 2 ? 1 : 0; }

/* Round to a whole number, half to even, where |x| < 2^51. */
double whole(double x) {
    const double shift = 6755399441055744.0; /* 1.5 * 2^52 */
    return (x + shift) - shift;
}

/* The codebook rounded to 8 bits, and its unit. */
void round_codebook(const float *codebook, int size, tables *t) {
    float most = 0.0f;
    bool finite = true;
    for (int i = 0; i < size; ++i) {
        float magnitude = fabsf(codebook[i]);
        finite = finite && magnitude < INFINITY;
        if (magnitude > most) most = magnitude;
    }
    double unit = most > 0.0f ? (double)most / 127 : 1.0;
    for (int i = 0; i < size; ++i)
        t->code[i] = finite ? (int8_t)whole((double)codebook[i] / unit) : (int8_t)0;
    t->unit = finite ? (float)unit : NAN;
}

/* One product: what every task of it needs. */
struct product {
    const gq_weight *w;
    const instruction_set *set;
    const float *x;
    int64_t m;
    float *out;
    int mode;
    int64_t width;  /* cols, filled up to whole blocks */
    int64_t stripes_per_task, tiles_per_task, row_tasks;
    const tables *t;
    void *tiles;    /* (m filled up, width) float or int8 */
    float *unit;    /* (m filled up), int8 */
    int32_t *total; /* (m filled up), int8 */
};

/* Fill tile `index`: rows from TILE * index on. */
void fill_tile(const void *what, int64_t index) {
    const product &p = *(const product *)what;
    int64_t first = index * TILE, cols = p.w->cols;
    int64_t n = (int64_t)1 << tile_log2(p.m - first);
    for (int64_t i = 0; i < n; ++i) {
        const float *row = p.x + (first + i) * cols;
        bool there = first + i < p.m;
        if (p.mode == GQ_INT8) {
            int8_t *q = (int8_t *)p.tiles + first * p.width + 4 * i;
            p.unit[first + i] =
                p.set->round_row(row, there ? cols : 0, n, q, p.total + first + i);
            if (!there)
                for (int64_t k = 0; k < p.width; k += 4) memset(q + k * n, 0, 4);
        } else {
            float *to = (float *)p.tiles + first * p.width + 4 * i;
            for (int64_t k = 0; k < p.width; k += 4) {
                int64_t count = there ? least(cols - k, 4) : 0;
                for (int64_t j = 0; j < 4; ++j)
                    to[k * n + j] = j < count ? row[k + j] : 0.0f;
            }
        }
    }
}

/* Rows of a weight that are multiplied together. */
struct stripe_t {
    const uint8_t *planes;
    int64_t row, rows;
    float scale[ROWS], bias[ROWS];
};

stripe_t stripe_of(const gq_weight *w, int64_t index) {
    int64_t row = index * ROWS;
    stripe_t s = {stripe_at(w, index), row, least(ROWS, w->rows - row), {}, {}};
    for (int64_t r = 0; r < s.rows; ++r) {
        s.scale[r] = scale_of(w, row + r);
        s.bias[r] = w->bias ? w->bias[row + r] : 0.0f;
    }
    return s;
}

/* The products of a tile with a stripe, before scales: one of both. */
union sums {
    float value[TILE * ROWS];
    int32_t code[TILE * ROWS];
};

/* Store what belongs to the result of the tile that starts at row `first`. */
void store(const product &p, const stripe_t &s, int64_t first, const sums &sum) {
    int64_t n = least((int64_t)1 << tile_log2(p.m - first), p.m - first);
    float *out = p.out + first * p.w->rows + s.row;
    for (int64_t i = 0; i < n; ++i, out += p.w->rows) {
        if (p.mode == GQ_INT8) {
            float unit = p.unit[first + i] * p.t->unit;
            for (int64_t r = 0; r < s.rows; ++r)
                out[r] = s.bias[r] + (float)sum.code[i * ROWS + r] * (unit * s.scale[r]);
        } else {
            for (int64_t r = 0; r < s.rows; ++r)
                out[r] = s.bias[r] + sum.value[i * ROWS + r] * s.scale[r];
        }
    }
}

/* One tile: unpacked in registers. */
void multiply_tile(const product &p, const stripe_t &s, int64_t tile) {
    int64_t first = tile * TILE, begin = first * p.width;
    int log2 = tile_log2(p.m - first), width = p.w->bits - 1;
    sums sum;
    if (p.mode == GQ_INT8)
        p.set->dot_int8[log2][width](s.planes, blocks(p.w), p.t,
                                     (const int8_t *)p.tiles + begin, p.total + first,
                                     sum.code);
    else
        p.set->dot_float[log2][width](s.planes, blocks(p.w), p.t,
                                      (const float *)p.tiles + begin, sum.value);
    store(p, s, first, sum);
}

enum { MOST_TILES = 32, CHUNK_BYTES = 1 << 13, FLOAT_CHUNK_BYTES = 1 << 14 };

/* Several tiles: some blocks are unpacked to the first-level cache and multiplied with
 * each tile, while the blocks after them are prefetched. */
void multiply_tiles(const product &p, const stripe_t &s, int64_t tile, int64_t last) {
    static const int32_t none[TILE] = {};
    const gq_weight *w = p.w;
    const bool int8 = p.mode == GQ_INT8;
    const int64_t most = int8 ? CHUNK_BYTES / VALUES
                              : FLOAT_CHUNK_BYTES / (VALUES * 4);
    alignas(64) union {
        uint8_t code[CHUNK_BYTES];
        float value[FLOAT_CHUNK_BYTES / 4];
    } chunk;
    sums sum[MOST_TILES], part;
    int64_t full = (least(p.m, last * TILE) - tile * TILE) / TILE; /* at least 1 */
    int64_t block = 0;
    do { /* without columns once as well: the sums are 0 */
        int64_t count = least(most, blocks(w) - block);
        const uint8_t *planes = s.planes + block * block_bytes(w->bits);
        if (int8)
            p.set->codes[w->bits - 1](planes, count, p.t, chunk.code);
        else
            p.set->values[w->bits - 1](planes, count, p.t, chunk.value);
        ahead_t ahead = {planes + count * block_bytes(w->bits), over(w->bits, full)};
        for (int64_t i = tile; i < last; ++i, ahead.at += 64 * ahead.lines * count) {
            if (i == tile + full) ahead.lines = 0; /* a few rows leave no time for it */
            int64_t first = i * TILE, n = (int64_t)1 << tile_log2(p.m - first);
            int64_t begin = first * p.width + block * COLS * n;
            int log2 = tile_log2(p.m - first);
            sums &all = sum[i - tile], &to = block ? part : all;
            if (int8) {
                p.set->dot_codes[log2](chunk.code, count, (const int8_t *)p.tiles + begin,
                                       block ? none : p.total + first, ahead, to.code);
                for (int k = 0; block && k < n * ROWS; ++k) all.code[k] += part.code[k];
            } else {
                p.set->dot_values[log2](chunk.value, count,
                                        (const float *)p.tiles + begin, ahead,
                                        to.value);
                for (int k = 0; block && k < n * ROWS; ++k)
                    all.value[k] += part.value[k];
            }
        }
        block += most;
    } while (block < blocks(w));
    for (int64_t i = tile; i < last; ++i) store(p, s, i * TILE, sum[i - tile]);
}

void multiply(const void *what, int64_t index) {
    const product &p = *(const product *)what;
    int64_t tile = index / p.row_tasks * p.tiles_per_task;
    int64_t stripe = index % p.row_tasks * p.stripes_per_task;
    int64_t last_stripe = least(stripe + p.stripes_per_task, stripes(p.w));
    int64_t last_tile = least(tile + p.tiles_per_task, over(p.m, TILE));
    for (; stripe < last_stripe; ++stripe) {
        stripe_t s = stripe_of(p.w, stripe);
        if (last_tile - tile > 1)
            multiply_tiles(p, s, tile, last_tile);
        else
            multiply_tile(p, s, tile);
    }
}

}  // namespace

tables tables_of(const gq_weight *w, int mode) {
    tables t;
    const int size = 1 << w->bits;
    memcpy(t.value, w->codebook, (size_t)size * sizeof *t.value);
    if (mode == GQ_INT8)
        round_codebook(w->codebook, size, &t);
    else
        t.unit = 0.0f;
    for (int i = 0; i < size; ++i) {
        uint32_t bits;
        memcpy(&bits, &t.value[i], 4);
        for (int k = 0; k < 4; ++k) t.byte[k][i] = (uint8_t)(bits >> 8 * k);
    }
    for (int have = size; have < 256; have *= 2) {
        memcpy(t.value + have, t.value, (size_t)have * sizeof *t.value);
        if (mode == GQ_INT8) memcpy(t.code + have, t.code, (size_t)have);
        for (int k = 0; k < 4; ++k) memcpy(t.byte[k] + have, t.byte[k], (size_t)have);
    }
    return t;
}

int64_t workspace(int64_t cols, int64_t m, int mode) {
    int64_t rows = over(m, TILE) * TILE, width = over(cols, COLS) * COLS;
    return mode == GQ_INT8 ? rows * (width + 8) : rows * width * 4;
}

void linear(const gq_weight *w, const tables *t, const float *x, int64_t m, float *out,
            int mode, int threads, const instruction_set *set, void *memory) {
    if (m == 0 || w->rows == 0) return;
    product p;
    p.w = w;
    p.set = set;
    p.x = x;
    p.m = m;
    p.out = out;
    p.mode = mode;
    p.width = blocks(w) * COLS;
    p.t = t;
    int64_t rows = over(m, TILE) * TILE, tiles = over(m, TILE);
    p.unit = (float *)memory;
    p.total = (int32_t *)(p.unit + rows);
    p.tiles = mode == GQ_INT8 ? (void *)(p.total + rows) : memory;
    /* Below some 16,000 values a thread's start costs more than it saves. */
    bool many = m * p.width >= 1 << 16;
    run_tasks(fill_tile, &p, tiles, many ? threads : 1);
    /* The tiles of a task stay in a cache of 256 KiB while its stripes pass by. */
    int64_t value = mode == GQ_INT8 ? 1 : 4;
    p.tiles_per_task = least(1 + (1 << 18) / (TILE * (p.width + 1) * value), MOST_TILES);
    int64_t most = (double)m * p.width * w->rows < 1 << 17 ? 1 : threads;
    /* A thread has several tasks: one that is held up leaves its share to the rest. */
    p.stripes_per_task = over(stripes(w), most == 1 ? 1 : 8 * most);
    p.row_tasks = over(stripes(w), p.stripes_per_task);
    run_tasks(multiply, &p, p.row_tasks * over(tiles, p.tiles_per_task), (int)most);
}

}  // namespace gq

using namespace gq;

int gq_linear(const gq_weight *w, const float *x, int64_t m, float *out, int mode,
              int threads, int isa) {
    const instruction_set *set = instructions(isa);
    if (!weight_ok(w) || !set || m < 0 || m >= MOST / (w->cols + COLS) ||
        (mode != GQ_EXACT && mode != GQ_INT8) ||
        (mode == GQ_INT8 && w->cols > INT8_COLS) || (m > 0 && w->cols > 0 && !x) ||
        (m > 0 && w->rows > 0 && !out))
        return 1;
    void *memory = malloc((size_t)workspace(w->cols, m, mode) + 1);
    if (!memory) return 2;
    const tables t = tables_of(w, mode);
    linear(w, &t, x, m, out, mode, threads, set, memory);
    free(memory);
    return 0;
}
