/* Products with a packed matrix, called by gq_linear and by every step of a recurrence.
 *
 *     out[i, r] = bias[r] + sum_c w[r, c] x[i, c]
 */
#ifndef ESPNET_GQ_PRODUCT_H
#define ESPNET_GQ_PRODUCT_H

#include <stdint.h>

#include "api.h"
#include "instruction_set.h"

namespace gq {

/* The codebook of a weight in the forms that kernels read; codes in mode GQ_INT8 only. */
tables tables_of(const gq_weight *w, int mode);

/* Bytes that a product of m rows needs beside its arguments. */
int64_t workspace(int64_t cols, int64_t m, int mode);

/* t: tables_of(w, mode), x: (m, cols), out: (m, rows), memory: workspace() bytes. */
void linear(const gq_weight *w, const tables *t, const float *x, int64_t m, float *out,
            int mode, int threads, const instruction_set *set, void *memory);

}  // namespace gq

#endif
