/* Multi-head attention, with or without relative positions:
 *
 *     out = W_out concat_h softmax((q_h k_h^T + s_h) / sqrt(d)) v_h
 *
 * PLAIN: s = 0. RELATIVE (Transformer-XL): q_h + u_h in the place of q_h, and s[i, j] =
 * (q_h[i] + v_h) W_pos e(i - j). SHIFTED, ESPnet's older form of it: e of other
 * positions, and beyond the diagonal those that its shift of a square matrix finds.
 */
#ifndef GQ_ASR_ATTENTION_H
#define GQ_ASR_ATTENTION_H

#include <string>

#include "layers/arena.h"
#include "layers/loops.h"
#include "layers/matrix.h"

namespace asr {

enum AttentionKind { PLAIN, RELATIVE, SHIFTED };

struct Attention {
    AttentionKind kind = PLAIN;
    int64_t heads = 1, width = 0;
    Matrix query, key, value, out, position;
    const float *bias_u = nullptr, *bias_v = nullptr; /* (heads, width / heads), not of PLAIN */

    /* NAME.linear_q and so on. */
    static Attention load(class Loader &loader, const std::string &name,
                          AttentionKind kind, int64_t heads, int64_t width);

    /* Rows of positions for `queries` and `keys`: the encodings of relative positions
     * keys - 1, ..., 1 - queries of RELATIVE, of `keys` positions of SHIFTED. */
    int64_t positions(int64_t queries, int64_t keys) const;

    /* q: (queries, width), the last of the keys' positions. k, v: (keys, width). p:
     * (positions(), width), W_pos applied; NULL of PLAIN. Writes (queries, width),
     * before W_out, in the place of q. */
    void attend(const Loops &loops, float *q, int64_t queries, const float *k,
                const float *v, int64_t keys, const float *p, Arena &arena) const;

    /* Self-attention of x (n, width). Rows before `first` attend to nothing, the others
     * to the rows before `end` (negative: to all). encodings: (positions(n, n), width),
     * before W_pos; NULL of PLAIN. result: (n, width), not x. */
    void apply(const Compute &compute, const float *x, int64_t n, const float *encodings,
               Arena &arena, float *result, int64_t first = 0, int64_t end = -1) const;
};

}  // namespace asr

#endif
