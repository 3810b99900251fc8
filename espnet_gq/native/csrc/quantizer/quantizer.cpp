/* Checks, sums and threads around the fused pass. */
#include <stdlib.h>

#include "api.h"
#include "dispatch.h"
#include "quantizer/pass.h"
#include "sizes.h"
#include "team.h"

namespace {

struct batches_t {
    const gq::pass *p;
    gq::blocks_t run;
    int64_t blocks, batch;
};

void run_batch(const void *what, int64_t index) {
    const batches_t &b = *(const batches_t *)what;
    int64_t first = index * b.batch;
    b.run(*b.p, first, gq::least(first + b.batch, b.blocks));
}

void run(const gq::pass &p, gq::blocks_t blocks_of, int64_t blocks, int threads) {
    /* Rows may be short: a batch holds at least one full block's weights. */
    int64_t batch = gq::over(2 * gq::pass::BLOCK, gq::least(p.cols, gq::pass::BLOCK));
    batches_t b = {&p, blocks_of, blocks, batch};
    /* Below 16,000 weights each, threads cost more than they save. */
    bool many = p.rows * p.cols >= 2 * 4 * gq::pass::BLOCK;
    gq::run_long_tasks(run_batch, &b, gq::over(blocks, batch), many ? threads : 1);
}

bool is_valid(const gq_codebook *q, int64_t rows, int64_t cols, int mode) {
    return q && q->c && q->scale && q->inv_scale && q->bits >= 1 && q->bits <= 8 &&
           rows >= 0 && cols >= 0 && (cols == 0 || rows < gq::MOST / cols) &&
           (mode == GQ_SOFT || mode == GQ_HARD);
}

/* What both directions share. */
gq::pass pass_of(const gq_codebook *q, const float *dc, const float *w, float *out,
                 int64_t rows, int64_t cols, int mode, float alpha) {
    gq::pass p;
    p.w = w;
    p.grad = nullptr;
    p.out = out;
    p.scale = q->scale;
    p.inv_scale = q->inv_scale;
    p.sum_scale = p.sum_mu = nullptr;
    p.per_row = q->per_row;
    p.rows = p.per_row ? rows : 1;
    p.cols = p.per_row ? cols : rows * cols;
    p.blocks_per_row = gq::over(p.cols, gq::pass::BLOCK);
    gq::fill_tables(*q, dc, mode, alpha, &p.t);
    return p;
}

}  // namespace

int gq_forward(const gq_codebook *q, const float *w, int64_t rows, int64_t cols,
               float *out, int mode, float alpha, int threads, int isa) {
    const gq::instruction_set *set = gq::instructions(isa);
    if (!set || !is_valid(q, rows, cols, mode)) return 1;
    if (rows == 0 || cols == 0) return 0;
    if (!w || !out) return 1;
    const gq::pass p = pass_of(q, nullptr, w, out, rows, cols, mode, alpha);
    const gq::quantizer_pass &loops = *set->quantizer;
    run(p, mode == GQ_SOFT ? loops.soft[p.t.quick][p.t.log2] : loops.hard[p.t.log2],
        p.rows * p.blocks_per_row, threads);
    return 0;
}

int gq_backward(const gq_codebook *q, const float *dc, const float *w, const float *grad,
                int64_t rows, int64_t cols, float *out, float *grad_scale,
                float *grad_mu, int mode, float alpha, int threads, int isa) {
    const gq::instruction_set *set = gq::instructions(isa);
    if (!set || !is_valid(q, rows, cols, mode) || !dc || !grad_scale || !grad_mu)
        return 1;
    for (int64_t r = 0; r < (q->per_row ? rows : 1); ++r) grad_scale[r] = 0.0f;
    *grad_mu = 0.0f;
    if (rows == 0 || cols == 0) return 0;
    if (!w || !grad || !out) return 1;
    gq::pass p = pass_of(q, dc, w, out, rows, cols, mode, alpha);
    const int64_t blocks = p.rows * p.blocks_per_row;
    p.grad = grad;
    double *sums = (double *)malloc(2 * (size_t)blocks * sizeof(double));
    if (!sums) return 2;
    p.sum_scale = sums;
    p.sum_mu = sums + blocks;
    const gq::quantizer_pass &loops = *set->quantizer;
    run(p,
        mode == GQ_SOFT ? loops.soft_gradient[p.t.log2]
                        : loops.hard_gradient[p.t.quick][p.t.log2],
        blocks, threads);
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
