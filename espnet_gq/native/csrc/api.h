/* The interface of the library: plain C, called through ctypes.
 *
 * Functions return 0, 1 when an argument is out of range, 2 when memory is lacking.
 * `isa` is a number below gq_isa_count(), 0 the best of this machine. Sizes are checked
 * and NULL is refused; the caller guarantees that a pointer leads to as much memory as
 * its shape says.
 */
#ifndef ESPNET_GQ_API_H
#define ESPNET_GQ_API_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { GQ_SOFT = 0, GQ_HARD = 1 };
enum { GQ_EXACT = 0, GQ_INT8 = 1 };
enum { GQ_LSTM = 0, GQ_GRU = 1 };

/* --- the machine --- */

int gq_isa_count(void);
const char *gq_isa_name(int isa);

/* Let PyTorch's OpenMP team do the work: the address of GOMP_parallel, or NULL. */
void gq_set_team(void (*gomp_parallel)(void (*)(void *), void *, unsigned, unsigned));

/* Read a buffer once; for measuring memory bandwidth. Returns a sum of its words. */
uint64_t gq_read(const uint8_t *data, int64_t bytes, int threads, int isa);

/* --- the quantizer (quantizer/) --- */

/* What weights are quantized with. */
typedef struct {
    const float *c;         /* (2^bits) normalised centroids, ascending */
    const float *scale;     /* (rows) if per_row, else (1) */
    const float *inv_scale; /* 1 / scale */
    int bits, per_row;
} gq_codebook;

/* What trained parameters stand for, with u[j] equidistant from -1 to 1 and mu, scale in
 * double:
 *
 *     scale = exp(log_scale),   c[j] = sgn(u[j]) ((1 + mu)^|u[j]| - 1) / mu
 *
 * log_scale, scale, inv_scale: (scales); log_mu: (1); c, dc: (2^bits), dc = d c / d ln mu.
 * ln scale and ln mu are limited to `scale_range` and `mu_range`: least and most. */
int gq_mulaw(const float *log_scale, int64_t scales, const double *scale_range,
             const float *log_mu, const double *mu_range, int bits, float *scale,
             float *inv_scale, float *c, float *dc);

/* out[r, i] = scale[r] * sum_j p_j c[j] of w[r, i] in mode GQ_SOFT, scale[r] * c[nearest]
 * in mode GQ_HARD. w, out: (rows, cols). */
int gq_forward(const gq_codebook *q, const float *w, int64_t rows, int64_t cols,
               float *out, int mode, float alpha, int threads, int isa);

/* The gradients for w, ln scale and ln mu. dc: (2^bits), d c / d ln mu. w, grad, out:
 * (rows, cols); grad_scale: (rows) if per_row, else (1); grad_mu: (1). */
int gq_backward(const gq_codebook *q, const float *dc, const float *w, const float *grad,
                int64_t rows, int64_t cols, float *out, float *grad_scale,
                float *grad_mu, int mode, float alpha, int threads, int isa);

/* --- packed weights (packed/) --- */

/* A weight matrix: w[r, c] = scale[r / (rows / scales)] * codebook[index[r, c]].
 *
 * Nothing is derived from it beforehand: each call reads what the pointers lead to. In
 * mode GQ_INT8 the codebook is rounded to code = round(codebook / unit), half to even,
 * where unit = max |codebook| / 127 (1 of a codebook of zeros, NaN where a centroid is
 * not finite). */
typedef struct {
    const uint8_t *planes;  /* gq_planes_size() bytes, see packed/layout.h */
    const float *codebook;  /* (2^bits) centroids */
    const float *scale;     /* (scales) */
    const float *bias;      /* (rows), or NULL */
    int64_t rows, cols, scales;
    int bits;
} gq_weight;

/* Bytes of the planes of a matrix, -1 where an argument is out of range. */
int64_t gq_planes_size(int64_t rows, int64_t cols, int bits);

/* Planes from a stream of indices: number i (row after row) is in the bits i * bits to
 * (i + 1) * bits - 1 of `stream`, least significant first. */
int gq_fill_planes(const uint8_t *stream, int64_t rows, int64_t cols, int bits,
                   uint8_t *planes);

/* out[i, r] = bias[r] + sum_c w[r, c] x[i, c]. x: (m, cols), out: (m, rows). In mode
 * GQ_INT8 each row of x is rounded to 8 bits and multiplied with the codes; cols is at
 * most 2^16 there. */
int gq_linear(const gq_weight *w, const float *x, int64_t m, float *out, int mode,
              int threads, int isa);

/* The rows `first` to `first + count - 1` of w, transposed: out (cols, count). `first`
 * is a multiple of 16. */
int gq_values(const gq_weight *w, int64_t first, int64_t count, float *out, int threads,
              int isa);

/* The n rows of w that `row` names, into out (n, cols). */
int gq_rows(const gq_weight *w, const int64_t *row, int64_t n, float *out);

/* A recurrent layer in one direction, after its input matrix was applied.
 *
 * cell: GQ_LSTM (gates i, f, g, o) or GQ_GRU (r, z, n), of `units` units. hh: (gates *
 * units, outputs); an LSTM has its bias included in `input`, a GRU in hh. hr:
 * projection (outputs, units), or NULL: outputs = units. active: (steps) sequences that
 * last to each step, not increasing. input: (sum of active, gates * units). reverse: from
 * the last step to the first. h: (active[0], outputs) and c: (active[0], units; LSTM
 * only): initial states, final ones on return. out: (sum of active, ld), of which each
 * row gets `outputs` values. */
int gq_recurrence(int cell, const gq_weight *hh, const gq_weight *hr, int64_t units,
                  const float *input, const int64_t *active, int64_t steps, int reverse,
                  float *h, float *c, float *out, int64_t ld, int mode, int threads,
                  int isa);

/* One direction of one recurrent layer: matrices without biases, and the biases. */
typedef struct {
    const gq_weight *ih;        /* (gates * units, inputs) */
    const gq_weight *hh;        /* (gates * units, outputs) */
    const gq_weight *hr;        /* (outputs, units), or NULL in all directions */
    const float *b_ih, *b_hh;   /* (gates * units), or NULL both */
} gq_direction;

/* Layers of recurrences, each applied to the result of the one before; the values are
 * those of gq_linear and gq_recurrence in turn.
 *
 * directions: (layers, each), where each is 2 with the backward direction, else 1; the
 * layers after the first have each * outputs inputs. x: (sum of active, inputs). h:
 * (layers, each, active[0], outputs) and c: (layers, each, active[0], units; LSTM only):
 * initial states, final ones on return. out: (sum of active, each * outputs). */
int gq_stack(int cell, const gq_direction *directions, int64_t layers, int64_t each,
             int64_t units, const float *x, const int64_t *active, int64_t steps,
             float *h, float *c, float *out, int mode, int threads, int isa);

#ifdef __cplusplus
}
#endif

#endif
