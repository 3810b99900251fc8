/* One fused pass of the quantizer over a float32 weight matrix, on the CPU.
 *
 * Same mathematics and names as assignment.py, which documents them. Plain C with a C
 * interface: no Python or torch headers, so one build serves every release of both.
 * On x86-64 the instruction set is chosen at run time; elsewhere the compiler's
 * vectors of four are used.
 *
 * Work is cut into blocks of one row or a part of it. Sums are taken block by block
 * and added in order, so results do not depend on the number of threads.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "_team.h"

#define INLINE static inline __attribute__((always_inline))
#define BLOCK 4096 /* weights a block */
#define OVERSHOOT 4.0f
#define TABLE (256 + 64) /* paddings on both sides, and room to read past the end */

enum { SOFT = 0, HARD = 1 };
enum { WITHOUT_A, WITH_A, WITH_A_MIRRORED };

typedef struct {
    const float *w;     /* (rows, cols) */
    const float *grad;  /* (rows, cols), NULL in the forward pass */
    float *out;         /* (rows, cols): quantized weights, or their gradient */
    const float *scale; /* (rows) or (1) */
    const float *inv_scale;
    double *sum_scale, *sum_mu; /* (blocks), backward only */
    int64_t rows, cols, blocks_per_row;
    float alpha, q2; /* q2 = exp(-2 alpha) */
    int bits, per_row, mode;
    float c[TABLE], dc[TABLE]; /* centroid j is c[j + 1]; dc = d c / d ln mu */
    float coarse[64];          /* the centroids, every 2^(bits-5)-th above 5 bits */
} pass_t;

typedef struct {
    int64_t begin, n, block;
    float s, inv;
} span_t;

INLINE span_t span(const pass_t *p, int64_t block) {
    int64_t row = block / p->blocks_per_row, part = block % p->blocks_per_row;
    span_t r;
    r.block = block;
    r.begin = row * p->cols + part * BLOCK;
    r.n = p->cols - part * BLOCK < BLOCK ? p->cols - part * BLOCK : BLOCK;
    r.s = p->scale[p->per_row ? row : 0];
    r.inv = p->inv_scale[p->per_row ? row : 0];
    return r;
}

#if defined(__x86_64__) && defined(__GNUC__)
#define X86 1
#include <immintrin.h>

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma")
#define LANES 16
#define NAME(x) x##_avx512
/* 32 entries; higher bits of k are ignored. */
INLINE __m512 permute_avx512(const float *table, __m512i k) {
    return _mm512_permutex2var_ps(_mm512_loadu_ps(table), k,
                                  _mm512_loadu_ps(table + 16));
}
/* Permutes and blends: several times faster than a gather, up to 256 entries. */
INLINE __m512 lookup_avx512(const float *table, __m512i k, const int bits) {
    if (bits <= 4) return _mm512_permutexvar_ps(k, _mm512_loadu_ps(table));
    __m512 part[8];
    const int parts = 1 << (bits - 5);
    for (int i = 0; i < parts; ++i) part[i] = permute_avx512(table + 32 * i, k);
    for (int b = 5; b < bits; ++b) {
        __mmask16 upper = _mm512_test_epi32_mask(k, _mm512_set1_epi32(1 << b));
        for (int i = 0; i < parts >> (b - 4); ++i)
            part[i] = _mm512_mask_blend_ps(upper, part[2 * i], part[2 * i + 1]);
    }
    return part[0];
}
#define LOOKUP(table, k, bits)                                                         \
    ((vf_avx512)lookup_avx512((table), (__m512i)(k), (bits)))
#include "_fused_kernel.h"
#undef LANES
#undef NAME
#undef LOOKUP
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define LANES 8
#define NAME(x) x##_avx2
INLINE __m256 permute_avx2(const float *table, __m256i k) {
    return _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), k);
}
INLINE __m256 lookup_avx2(const float *table, __m256i k, const int bits) {
    if (bits <= 3) return permute_avx2(table, k);
    if (bits > 5) return _mm256_i32gather_ps(table, k, 4);
    /* A blend looks at the sign bit alone. */
    __m256 bit3 = _mm256_castsi256_ps(_mm256_slli_epi32(k, 28));
    __m256 bit4 = _mm256_castsi256_ps(_mm256_slli_epi32(k, 27));
    __m256 low = _mm256_blendv_ps(permute_avx2(table, k), permute_avx2(table + 8, k),
                                  bit3);
    if (bits == 4) return low;
    __m256 high = _mm256_blendv_ps(permute_avx2(table + 16, k),
                                   permute_avx2(table + 24, k), bit3);
    return _mm256_blendv_ps(low, high, bit4);
}
#define LOOKUP(table, k, bits) ((vf_avx2)lookup_avx2((table), (__m256i)(k), (bits)))
#include "_fused_kernel.h"
#undef LANES
#undef NAME
#undef LOOKUP
#pragma GCC pop_options
#endif

#define LANES 4
#define NAME(x) x##_generic
typedef float lookup_vf __attribute__((vector_size(16)));
typedef int32_t lookup_vi __attribute__((vector_size(16)));
INLINE lookup_vf lookup_generic(const float *table, lookup_vi k) {
    return (lookup_vf){table[k[0]], table[k[1]], table[k[2]], table[k[3]]};
}
#define LOOKUP(table, k, bits) ((vf_generic)lookup_generic((table), (lookup_vi)(k)))
#include "_fused_kernel.h"

typedef void (*run_t)(const pass_t *, int64_t, int64_t);

/* Instruction sets by number: 0 generic, 1 AVX2, 2 AVX-512. */
static run_t choose(int isa) {
#ifdef X86
    if (isa >= 2) return run_blocks_avx512;
    if (isa == 1) return run_blocks_avx2;
#endif
    (void)isa;
    return run_blocks_generic;
}

int gq_best_isa(void) {
#ifdef X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return 2;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
    return 0;
}

void gq_set_team(team_t gomp_parallel) { team = gomp_parallel; }

typedef struct {
    const pass_t *p;
    run_t run;
    int64_t blocks, batch;
} batches_t;

static void run_batch(const void *what, int64_t index) {
    const batches_t *b = what;
    int64_t first = index * b->batch, end = first + b->batch;
    b->run(b->p, first, end < b->blocks ? end : b->blocks);
}

static void run(const pass_t *p, run_t kernel, int64_t blocks, int threads) {
    /* Rows may be short: a batch holds at least one full block's weights. */
    int64_t per_block = p->cols < BLOCK ? p->cols : BLOCK;
    int64_t batch = (2 * BLOCK + per_block - 1) / per_block;
    batches_t b = {p, kernel, blocks, batch};
    /* Below 16,000 weights each, threads cost more than they save. */
    int64_t most = p->rows * p->cols / (4 * BLOCK);
    run_tasks(run_batch, &b, (blocks + batch - 1) / batch, most < 2 ? 1 : threads);
}

static float exp_minus_2(float alpha) {
    return exp_negative_generic((vf_generic){0} - 2.0f * alpha)[0];
}

/* Fill what both directions share. Returns the number of blocks. */
static int64_t prepare(pass_t *p, const float *c, int64_t rows, int64_t cols) {
    const int levels = 1 << p->bits, coarse = p->bits > 5 ? 5 : p->bits;
    p->rows = p->per_row ? rows : 1;
    p->cols = p->per_row ? cols : rows * cols;
    p->blocks_per_row = (p->cols + BLOCK - 1) / BLOCK;
    p->q2 = exp_minus_2(p->alpha);
    memset(p->c, 0, sizeof p->c);
    memset(p->dc, 0, sizeof p->dc);
    memset(p->coarse, 0, sizeof p->coarse);
    memcpy(p->c + 1, c, (size_t)levels * sizeof(float));
    for (int i = 0; i < 1 << coarse; ++i) p->coarse[i] = c[i << (p->bits - coarse)];
    return p->rows * p->blocks_per_row;
}

/* w, out: (rows, cols); scale, inv_scale: (rows) when per_row, else (1); c: (2^bits).
 * isa: as gq_best_isa() returns, or a smaller number. Returns 0, or 1 when an argument
 * is out of range. */
int gq_forward(const float *w, float *out, const float *scale, const float *inv_scale,
               const float *c, int64_t rows, int64_t cols, int per_row, int bits,
               int mode, float alpha, int threads, int isa) {
    if (rows < 0 || cols < 0 || bits < 1 || bits > 8 || isa > gq_best_isa()) return 1;
    if (rows == 0 || cols == 0) return 0;
    pass_t p = {.w = w, .out = out, .scale = scale, .inv_scale = inv_scale};
    p.alpha = alpha;
    p.bits = bits;
    p.per_row = per_row;
    p.mode = mode;
    run(&p, choose(isa), prepare(&p, c, rows, cols), threads);
    return 0;
}

/* grad_scale: (rows) when per_row, else (1): gradient for ln s. grad_mu: (1): for
 * ln mu. dc: (2^bits). Returns 0, 1 when an argument is out of range, 2 when memory
 * for the sums is lacking. */
int gq_backward(const float *w, const float *grad, float *out, float *grad_scale,
                float *grad_mu, const float *scale, const float *inv_scale,
                const float *c, const float *dc, int64_t rows, int64_t cols,
                int per_row, int bits, int mode, float alpha, int threads, int isa) {
    if (rows < 0 || cols < 0 || bits < 1 || bits > 8 || isa > gq_best_isa()) return 1;
    for (int64_t r = 0; r < (per_row ? rows : 1); ++r) grad_scale[r] = 0.0f;
    *grad_mu = 0.0f;
    if (rows == 0 || cols == 0) return 0;
    pass_t p = {.w = w, .grad = grad, .out = out, .scale = scale,
                .inv_scale = inv_scale};
    p.alpha = alpha;
    p.bits = bits;
    p.per_row = per_row;
    p.mode = mode;
    int64_t blocks = prepare(&p, c, rows, cols);
    memcpy(p.dc + 1, dc, ((size_t)1 << bits) * sizeof(float));
    double *sums = malloc(2 * (size_t)blocks * sizeof(double));
    if (!sums) return 2;
    p.sum_scale = sums;
    p.sum_mu = sums + blocks;
    run(&p, choose(isa), blocks, threads);
    double total_mu = 0.0;
    for (int64_t r = 0; r < p.rows; ++r) {
        double total = 0.0;
        for (int64_t b = r * p.blocks_per_row; b < (r + 1) * p.blocks_per_row; ++b) {
            total += p.sum_scale[b];
            total_mu += p.sum_mu[b];
        }
        grad_scale[r] = (float)total;
    }
    *grad_mu = (float)total_mu;
    free(sums);
    return 0;
}
