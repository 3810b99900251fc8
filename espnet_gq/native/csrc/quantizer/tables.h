/* What a pass looks up: the codebook, prepared for one mode and temperature.
 *
 * The loops see the normalised weights x cut into cells 0, 1, ..., cells - 1 by ascending
 * thresholds:
 *
 *     cell(x) = number of thresholds <= x
 *
 * A cell of a hard pass is what belongs to one centroid, a cell of a soft pass is the
 * interval between two of them. A codebook with c[j] = -c[J-1-j], as every mu-law curve's
 * is, is folded: |x| is looked up, and the result gets the sign of x. That halves the
 * tables; the first cell of a soft pass is then the interval around zero.
 *
 * Where the thresholds lie on a smooth curve, cells are found through a guide: |x| falls
 * into one of 32 pieces (by the leading bits of |x| + beta, which for beta = 1 / mu are
 * nearly equidistant on a mu-law curve), and a straight line per piece is within HALF
 * of a cell of the curve; one comparison then decides between two cells. Elsewhere cells
 * are found by bisection.
 */
#ifndef ESPNET_GQ_TABLES_H
#define ESPNET_GQ_TABLES_H

#include <stdint.h>

#include "api.h"

namespace gq {

constexpr double LN2 = 0.69314718055994531;
constexpr double OVERSHOOT = 4.0; /* as in quantizer/assignment.py */
constexpr int GUIDED_FROM = 4;    /* logarithm of the number of cells */

struct pass_tables {
    /* Entries, and room to read past the end. */
    static constexpr int SIZE = 256 + 32;

    int log2; /* of the number of cells, rounded up */
    int cells;
    int32_t fold;   /* -1 (all bits set) if folded, else 0 */
    bool guided;
    /* Soft: only the two nearest centroids count. Hard gradient: the slope is a
     * polynomial. */
    bool quick;

    float threshold[SIZE]; /* between cells i - 1 and i; -inf, NaN outside */
    float coarse[32];      /* every 2^(log2 - 5)-th threshold, where log2 > 5 */
    /* The guide. Piece of x: bits(min(x, limit) + beta) >> shift, modulo 32. */
    float beta, limit, line[32], gradient[32];
    int32_t shift;
    /* Soft: bounds of the intervals that have centroids beyond. Hard: top is the last
     * centroid. */
    float bottom, top;

    /* Soft, by interval: lower centroid l, gap to the upper one, exponent per x, and the
     * centroids beyond on both sides, relative to l, times q2 = exp(-2 alpha). */
    float low[SIZE], gap[SIZE], rate[SIZE], below[SIZE], above[SIZE];
    float q2, half, most; /* half = alpha / ln 2; most: limit of the exponent */
    /* Gradient: d c / d ln mu of the four centroids; that of the outer two times q2. */
    float d_low[SIZE], d_gap[SIZE], d_below[SIZE], d_above[SIZE];

    /* Hard, by centroid: itself, and its d c / d ln mu. */
    float centroid[SIZE], d_centroid[SIZE];
    /* Hard gradient: 1 / gap below centroid i (the first: as above it), bounds
     * beyond which the slope is 0, and the slope's polynomial in (t - 1/2)^2. */
    float per_gap[SIZE];
    float from, to, slope[7];
    float alpha;
};

/* Fill the tables of a pass. dc: NULL in a forward pass. */
void fill_tables(const gq_codebook &q, const float *dc, int mode, float alpha,
                 pass_tables *t);

}  // namespace gq

#endif
