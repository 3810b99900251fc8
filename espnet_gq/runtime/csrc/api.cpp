/* Everything but the kernels: tiles, threads, scales and the time loop. */
#include "api.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../../quantizer/_team.h"
#include "kernels.h"
#include "planes.h"

namespace {

const instruction_set *usable[4];
int usable_count = 0;

void find_instruction_sets() {
    if (usable_count) return;
    const instruction_set *found[4] = {};
    int count = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    bool avx512 = __builtin_cpu_supports("avx512f") &&
                  __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (avx512 && __builtin_cpu_supports("avx512vbmi") &&
        __builtin_cpu_supports("avx512vnni"))
        found[count++] = &gq_vnni;
    if (avx512) found[count++] = &gq_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        found[count++] = &gq_avx2;
#elif defined(__aarch64__)
    found[count++] = &gq_neon;
#endif
    found[count++] = &gq_portable;
    memcpy(usable, found, sizeof usable);
    usable_count = count;
}

const instruction_set *instructions(int isa) {
    find_instruction_sets();
    return isa >= 0 && isa < usable_count ? usable[isa] : nullptr;
}

int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t over(int64_t n, int64_t d) { return (n + d - 1) / d; }

/* 2^48 keeps every product of sizes below within 64 bits. */
const int64_t MOST = (int64_t)1 << 48;

bool sizes_ok(int64_t rows, int64_t cols, int bits) {
    return rows >= 0 && cols >= 0 && bits >= 1 && bits <= 8 && rows < MOST &&
           cols < MOST && (cols == 0 || over(rows, ROWS) * ROWS < MOST / (cols + COLS));
}

bool weight_ok(const gq_weight *w) {
    return w && sizes_ok(w->rows, w->cols, w->bits) && w->scales >= 1 &&
           w->rows % w->scales == 0 && w->codebook && w->scale &&
           (w->planes || w->rows == 0 || w->cols == 0);
}

int64_t blocks(const gq_weight *w) { return over(w->cols, COLS); }
int64_t stripes(const gq_weight *w) { return over(w->rows, ROWS); }
int64_t stripe_bytes(const gq_weight *w) { return blocks(w) * 64 * w->bits; }

float scale_of(const gq_weight *w, int64_t row) {
    return w->scale[w->scales == 1 ? 0 : row / (w->rows / w->scales)];
}

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

/* One product: what every task of it needs. */
struct product {
    const gq_weight *w;
    const instruction_set *set;
    const float *x;
    int64_t m;
    float *out;
    int mode;
    int64_t width;  /* cols, filled up to whole blocks */
    int64_t stripes_a_task, tiles_a_task, row_tasks;
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
                p.set->quantize(row, there ? cols : 0, n, q, p.total + first + i);
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

stripe_t stripe_at(const gq_weight *w, int64_t index) {
    int64_t row = index * ROWS;
    stripe_t s = {w->planes + index * stripe_bytes(w), row, least(ROWS, w->rows - row),
                  {}, {}};
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

/* Several tiles: some blocks are unpacked to the first cache, multiplied with each tile,
 * and those that follow are asked for meanwhile. */
void multiply_tiles(const product &p, const stripe_t &s, int64_t tile, int64_t last) {
    static const int32_t none[TILE] = {};
    const gq_weight *w = p.w;
    const bool int8 = p.mode == GQ_INT8;
    const int64_t most = int8 ? CHUNK_BYTES / (COLS * ROWS)
                              : FLOAT_CHUNK_BYTES / (COLS * ROWS * 4);
    alignas(64) union {
        uint8_t code[CHUNK_BYTES];
        float value[FLOAT_CHUNK_BYTES / 4];
    } chunk;
    sums sum[MOST_TILES], part;
    int64_t full = (least(p.m, last * TILE) - tile * TILE) / TILE; /* at least 1 */
    int64_t block = 0;
    do { /* without columns once as well: the sums are 0 */
        int64_t count = least(most, blocks(w) - block);
        const uint8_t *planes = s.planes + block * 64 * w->bits;
        if (int8)
            p.set->codes[w->bits - 1](planes, count, p.t, chunk.code);
        else
            p.set->values[w->bits - 1](planes, count, p.t, chunk.value);
        ahead_t ahead = {planes + count * 64 * w->bits, over(w->bits, full)};
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
    int64_t tile = index / p.row_tasks * p.tiles_a_task;
    int64_t stripe = index % p.row_tasks * p.stripes_a_task;
    int64_t last_stripe = least(stripe + p.stripes_a_task, stripes(p.w));
    int64_t last_tile = least(tile + p.tiles_a_task, over(p.m, TILE));
    for (; stripe < last_stripe; ++stripe) {
        stripe_t s = stripe_at(p.w, stripe);
        if (last_tile - tile > 1)
            multiply_tiles(p, s, tile, last_tile);
        else
            multiply_tile(p, s, tile);
    }
}

/* Bytes that a product of m rows needs beside its arguments. */
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
    p.tiles_a_task = least(1 + (1 << 18) / (TILE * (p.width + 1) * value), MOST_TILES);
    int64_t most = (double)m * p.width * w->rows < 1 << 17 ? 1 : threads;
    /* A thread has several tasks: one that is held up leaves its share to the rest. */
    p.stripes_a_task = over(stripes(w), most == 1 ? 1 : 8 * most);
    p.row_tasks = over(stripes(w), p.stripes_a_task);
    run_tasks(multiply, &p, p.row_tasks * over(tiles, p.tiles_a_task), (int)most);
}

/* The index of row r, column c. */
inline unsigned index_of(const uint8_t *stripe, int bits, int64_t r, int64_t c) {
    const uint8_t *block = stripe + c / COLS * 64 * bits;
    int64_t byte = 4 * r + c % 4, group = c % COLS / 4;
    unsigned index = 0;
    for (int part = 8; part >= 1; part /= 2) {
        if (!(bits & part)) continue;
        int64_t per_byte = 8 / part;
        unsigned packed = block[gq::begin(bits, part) + 64 * (group / per_byte) + byte];
        unsigned value = packed >> (group % per_byte * part) & ((1u << part) - 1);
        index |= value << gq::below(bits, part);
    }
    return index;
}

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
    const uint8_t *planes = w->planes + stripe * stripe_bytes(w);
    int64_t rows = least(ROWS, u.count - index * ROWS);
    float scale[ROWS], part[COLS * ROWS];
    for (int64_t r = 0; r < rows; ++r) scale[r] = scale_of(w, row + r);
    for (int64_t c = 0; c < w->cols; c += COLS) {
        int64_t cols = least(COLS, w->cols - c);
        u.set->values[w->bits - 1](planes + c * 2 * w->bits, 1, &u.t, part);
        float *out = u.out + c * u.count + index * ROWS;
        for (int64_t j = 0; j < cols; ++j)
            for (int64_t r = 0; r < rows; ++r)
                out[j * u.count + r] = part[j * ROWS + r] * scale[r];
    }
}

struct reading {
    const uint8_t *data;
    int64_t bytes;
    const instruction_set *set;
    uint64_t *sum;
};

const int64_t READ_BYTES = 1 << 18;

void read_part(const void *what, int64_t index) {
    const reading &r = *(const reading *)what;
    int64_t begin = index * READ_BYTES;
    uint64_t sum = r.set->read(r.data + begin, least(READ_BYTES, r.bytes - begin));
    __atomic_fetch_add(r.sum, sum, __ATOMIC_RELAXED);
}

}  // namespace

int gq_isa_count(void) {
    find_instruction_sets();
    return usable_count;
}

const char *gq_isa_name(int isa) {
    const instruction_set *set = instructions(isa);
    return set ? set->name : "";
}

void gq_set_team(team_t gomp_parallel) { team = gomp_parallel; }

int64_t gq_planes_size(int64_t rows, int64_t cols, int bits) {
    if (!sizes_ok(rows, cols, bits)) return -1;
    return over(rows, ROWS) * over(cols, COLS) * 64 * bits;
}

int gq_fill_planes(const uint8_t *stream, int64_t rows, int64_t cols, int bits,
                   uint8_t *planes) {
    int64_t size = gq_planes_size(rows, cols, bits);
    if (size < 0 || (size > 0 && (!stream || !planes))) return 1;
    if (size) memset(planes, 0, (size_t)size);
    int64_t stripe_bytes = over(cols, COLS) * 64 * bits;
    uint64_t bit = 0;
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < cols; ++c, bit += (uint64_t)bits) {
            const uint8_t *from = stream + bit / 8;
            unsigned shift = bit % 8, packed = from[0];
            if (shift + (unsigned)bits > 8) packed |= (unsigned)from[1] << 8;
            unsigned index = packed >> shift & ((1u << bits) - 1);
            uint8_t *block = planes + r / ROWS * stripe_bytes + c / COLS * 64 * bits;
            int64_t byte = 4 * (r % ROWS) + c % 4, group = c % COLS / 4;
            for (int part = 8; part >= 1; part /= 2) {
                if (!(bits & part)) continue;
                int64_t per_byte = 8 / part;
                unsigned value = index >> gq::below(bits, part) & ((1u << part) - 1);
                block[gq::begin(bits, part) + 64 * (group / per_byte) + byte] |=
                    (uint8_t)(value << (group % per_byte * part));
            }
        }
    return 0;
}

int gq_linear(const gq_weight *w, const float *x, int64_t m, float *out, int mode,
              int threads, int isa) {
    const instruction_set *set = instructions(isa);
    if (!weight_ok(w) || !set || m < 0 || m >= MOST / (w->cols + COLS) ||
        (mode != GQ_EXACT && mode != GQ_INT8) ||
        (mode == GQ_INT8 && w->cols > 1 << 16) || (m > 0 && w->cols > 0 && !x) ||
        (m > 0 && w->rows > 0 && !out))
        return 1;
    void *memory = malloc((size_t)workspace(w->cols, m, mode) + 1);
    if (!memory) return 2;
    const tables t = tables_of(w, mode);
    linear(w, &t, x, m, out, mode, threads, set, memory);
    free(memory);
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
    run_tasks(unpack_stripe, &u, over(count, ROWS), many ? threads : 1);
    return 0;
}

int gq_rows(const gq_weight *w, const int64_t *row, int64_t n, float *out) {
    if (!weight_ok(w) || n < 0 || (n > 0 && (!row || (w->cols > 0 && !out)))) return 1;
    for (int64_t i = 0; i < n; ++i)
        if (row[i] < 0 || row[i] >= w->rows) return 1;
    for (int64_t i = 0; i < n; ++i, out += w->cols) {
        const uint8_t *stripe = w->planes + row[i] / ROWS * stripe_bytes(w);
        float scale = scale_of(w, row[i]);
        for (int64_t c = 0; c < w->cols; ++c)
            out[c] = scale * w->codebook[index_of(stripe, w->bits, row[i] % ROWS, c)];
    }
    return 0;
}

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
        (mode == GQ_INT8 && (units > 1 << 16 || hh->cols > 1 << 16)) ||
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

uint64_t gq_read(const uint8_t *data, int64_t bytes, int threads, int isa) {
    const instruction_set *set = instructions(isa);
    uint64_t sum = 0;
    if (!set || !data || bytes <= 0) return 0;
    reading r = {data, bytes / 256 * 256, set, &sum};
    run_tasks(read_part, &r, over(r.bytes, READ_BYTES), threads);
    return sum;
}
