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
    bool sums; /* by tables of sums, which take the place of a tile */
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
    if (p.sums) {
        p.set->fill_sums[p.w->bits - 1](p.x, cols, p.t, (float *)p.tiles);
        return;
    }
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

void load_stripe(const gq_weight *w, int64_t index, stripe_t *s) {
    const int64_t row = index * ROWS, rows = least(ROWS, w->rows - row);
    s->planes = stripe_at(w, index);
    s->row = row;
    s->rows = rows;
    for (int64_t r = 0; r < ROWS; ++r) s->scale[r] = w->scale[0], s->bias[r] = 0.0f;
    if (w->scales > 1)
        for (int64_t r = 0; r < rows; ++r) s->scale[r] = scale_of(w, row + r);
    if (w->bias) memcpy(s->bias, w->bias + row, (size_t)rows * sizeof *s->bias);
}

/* The products of a tile with a stripe, before scales: one of both. */
union sums {
    float value[TILE * ROWS];
    int32_t code[TILE * ROWS];
};

/* Store what belongs to the result of the tile that starts at row `first`. */
void store(const product &p, const stripe_t &s, int64_t first, const sums &sum) {
    const result_t to = {p.out + first * p.w->rows + s.row, least(TILE, p.m - first), s.rows,
                         p.w->rows, s.scale, s.bias};
    if (p.mode == GQ_INT8)
        p.set->store_codes(to, sum.code, p.unit + first, p.t->unit);
    else
        p.set->store_values(to, sum.value);
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

/* From PAIR_TILES tiles on, two stripes share what is loaded of a tile; with fewer, the
 * second unpacking costs more than that saves. */
/* One row of activations by tables of sums. n: of the stripes, 1 to SHARING. */
void multiply_sums(const product &p, const stripe_t *stripe, int64_t n) {
    const uint8_t *planes[SHARING];
    float sum[SHARING][ROWS];
    for (int64_t i = 0; i < SHARING; ++i) planes[i] = stripe[least(i, n - 1)].planes;
    p.set->dot_sums[p.w->bits - 1](planes, blocks(p.w), (const float *)p.tiles, sum[0]);
    for (int64_t i = 0; i < n; ++i) {
        const result_t to = {p.out + stripe[i].row, 1, stripe[i].rows, p.w->rows,
                             stripe[i].scale, stripe[i].bias};
        p.set->store_values(to, sum[i]);
    }
}

enum { MOST_TILES = 32, PAIR_TILES = 8, FLOAT_CHUNK_BYTES = 1 << 14 };

union chunk {
    uint8_t code[PAIR * CHUNK_BYTES];
    float value[FLOAT_CHUNK_BYTES / 4];
};

/* `count` blocks of a stripe, or of a pair of them, from `block` on; some tiles of x. */
struct part_t {
    int64_t block, count, stripes;
    const uint8_t *planes[PAIR];
    ahead_t ahead;
};

void unpack_part(const product &p, const part_t &part, chunk *to) {
    const int width = p.w->bits - 1;
    for (int64_t s = 0; s < part.stripes; ++s)
        if (p.mode == GQ_INT8)
            p.set->codes[width](part.planes[s], part.count, p.t, to->code + CHUNK_BYTES * s);
        else
            p.set->values[width](part.planes[s], part.count, p.t, to->value);
}

/* Add the products of a part with one tile. */
void add_part(const product &p, const part_t &part, const chunk &w, int64_t tile,
              sums *sum) {
    static const int32_t none[TILE] = {};
    const int64_t first = tile * TILE;
    const int log2 = tile_log2(p.m - first);
    const int64_t begin = first * p.width + (part.block * COLS << log2);
    if (p.mode == GQ_EXACT) {
        p.set->dot_values[log2](w.value, part.count, (const float *)p.tiles + begin,
                                part.ahead, sum->value);
        return;
    }
    const int8_t *x = (const int8_t *)p.tiles + begin;
    const int32_t *total = part.block ? none : p.total + first;
    if (part.stripes == PAIR && log2 == 3)
        p.set->dot_pair(w.code, part.count, x, total, part.ahead, sum->code);
    else
        for (int64_t s = 0; s < part.stripes; ++s)
            p.set->dot_codes[log2](w.code + CHUNK_BYTES * s, part.count, x, total,
                                   part.ahead, sum[s].code);
}

/* Several tiles: some blocks are unpacked to the first-level cache and multiplied with
 * each tile, while the blocks after them are prefetched. stripe: (stripes), one or a pair,
 * which only int8 has. */
void multiply_tiles(const product &p, const stripe_t *stripe, int64_t stripes, int64_t tile,
                    int64_t last) {
    const int bits = p.w->bits;
    const int64_t most =
        p.mode == GQ_INT8 ? CHUNK_BYTES / VALUES : FLOAT_CHUNK_BYTES / (VALUES * 4);
    alignas(64) chunk w;
    alignas(64) sums sum[MOST_TILES][PAIR];
    memset(sum, 0, (size_t)(last - tile) * sizeof sum[0]);
    int64_t full = (least(p.m, last * TILE) - tile * TILE) / TILE; /* at least 1 */
    int64_t block = 0;
    do { /* without columns once as well: the sums are 0 */
        part_t part = {block, least(most, blocks(p.w) - block), stripes, {}, {}};
        const bool is_last = block + most >= blocks(p.w);
        for (int64_t s = 0; s < stripes; ++s) {
            part.planes[s] = stripe[s].planes + block * block_bytes(bits);
            part.ahead.at[s] = is_last
                                   ? stripe[s].planes + stripes * stripe_bytes(p.w->cols, bits)
                                   : part.planes[s] + most * block_bytes(bits);
        }
        part.ahead.lines = over(bits, full);
        unpack_part(p, part, &w);
        for (int64_t i = tile; i < last; ++i) {
            if (i == tile + full) part.ahead.lines = 0; /* a few rows leave no time */
            add_part(p, part, w, i, sum[i - tile]);
            for (int64_t s = 0; s < stripes; ++s) {
                part.ahead.at[s] += 64 * part.ahead.lines * part.count;
                if (is_last) store(p, stripe[s], i * TILE, sum[i - tile][s]);
            }
        }
        block += most;
    } while (block < blocks(p.w));
}

/* Multiplications of int8 that take some 0.2 ms: below that, PyTorch uses one thread for
 * the operations between two products, and its team does not spin. */
constexpr double LONG = 1 << 24;

void multiply(const void *what, int64_t index) {
    const product &p = *(const product *)what;
    int64_t tile = index / p.row_tasks * p.tiles_per_task;
    int64_t stripe = index % p.row_tasks * p.stripes_per_task;
    int64_t last_stripe = least(stripe + p.stripes_per_task, stripes(p.w));
    int64_t last_tile = least(tile + p.tiles_per_task, over(p.m, TILE));
    const bool pairs =
        p.mode == GQ_INT8 && p.set->dot_pair && last_tile - tile >= PAIR_TILES;
    while (stripe < last_stripe) {
        const int64_t most = p.sums ? SHARING : pairs ? PAIR : 1;
        const int64_t n = least(most, last_stripe - stripe);
        stripe_t s[SHARING];
        for (int64_t i = 0; i < n; ++i) load_stripe(p.w, stripe++, &s[i]);
        if (p.sums)
            multiply_sums(p, s, n);
        else if (last_tile - tile > 1)
            multiply_tiles(p, s, n, tile, last_tile);
        else
            multiply_tile(p, s[0], tile);
    }
}

}  // namespace

tables tables_of(const gq_weight *w, int mode) {
    tables t;
    const int size = 1 << w->bits;
    t.cached = planes_bytes(w->rows, w->cols, w->bits) <= 3 << 18;
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
    p.sums = mode == GQ_EXACT && m == 1 && w->bits <= 2 && set->dot_sums[w->bits - 1] &&
             stripes(w) >= SHARING;
    p.t = t;
    int64_t rows = over(m, TILE) * TILE, tiles = over(m, TILE);
    p.unit = (float *)memory;
    p.total = (int32_t *)(p.unit + rows);
    p.tiles = mode == GQ_INT8 ? (void *)(p.total + rows) : memory;
    const double work = (double)m * p.width * w->rows;
    const auto run = work < (mode == GQ_INT8 ? LONG : LONG / 2) ? run_tasks : run_long_tasks;
    /* Below some 16,000 values a thread's start costs more than it saves. */
    bool many = m * p.width >= 1 << 16;
    run(fill_tile, &p, tiles, many ? threads : 1);
    /* The tiles of a task stay in a cache of 256 KiB while its stripes pass by. */
    int64_t value = mode == GQ_INT8 ? 1 : 4;
    p.tiles_per_task = least(1 + (1 << 18) / (TILE * (p.width + 1) * value), MOST_TILES);
    int64_t most = work < 1 << 17 ? 1 : threads;
    /* A thread has several tasks: one that is held up leaves its share to the rest. */
    p.stripes_per_task = over(stripes(w), most == 1 ? 1 : 8 * most);
    p.row_tasks = over(stripes(w), p.stripes_per_task);
    run(multiply, &p, p.row_tasks * over(tiles, p.tiles_per_task), (int)most);
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
