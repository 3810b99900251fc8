/* A block of an E-Branchformer: x + 1/2 FF(x); then attention and a gated convolution of
 * x side by side, a = attention(norm(x)), b = cgmlp(norm(x)), and
 *
 *     x + W_merge ([a, b] + depthwise([a, b]));
 *
 * x + 1/2 FF(x), and a normalization. The gated convolution is
 *
 *     cgmlp(x) = W_out (l * f(depthwise(norm(r)) [W_gate])),  [l, r] = gelu(W_in x).
 */
#ifndef GQ_ASR_BRANCHFORMER_BLOCK_H
#define GQ_ASR_BRANCHFORMER_BLOCK_H

#include <string>

#include "layers/attention.h"
#include "layers/depthwise.h"
#include "layers/feed_forward.h"
#include "layers/normalization.h"

namespace asr {

/* What all blocks of an encoder have in common: the settings encoder.NAME. */
struct BranchformerShape {
    int64_t width = 0, heads = 1;
    AttentionKind attention = PLAIN;
    Activation feed_forward = Activation::SWISH, gate = Activation::IDENTITY;
    bool macaron = true, feeds = true, gate_layer = false;

    /* All but width and attention. */
    void load(Loader &loader);
};

class BranchformerBlock {
  public:
    static BranchformerBlock load(Loader &loader, const std::string &name,
                                  const BranchformerShape &shape);

    /* Replace x (n, width) by the output. positions: see Attention. */
    void apply(const Compute &compute, float *x, int64_t n, const float *positions,
               Arena &arena) const;

  private:
    void feed(const Compute &compute, const FeedForward &layer, const LayerNorm &norm,
              float *x, int64_t n, Arena &arena) const;
    void attend(const Compute &compute, const float *x, int64_t n,
                const float *positions, float *out, Arena &arena) const;
    void convolve(const Compute &compute, const float *x, int64_t n, float *out,
                  Arena &arena) const;
    void merge(const Compute &compute, const float *both, float *x, int64_t n,
               Arena &arena) const;

    BranchformerShape shape_;
    FeedForward macaron_, feed_forward_;
    Attention attention_;
    Matrix in_, out_, gate_, merge_;
    Depthwise conv_, fusion_;
    LayerNorm norm_macaron_, norm_attention_, norm_conv_, norm_gate_, norm_feed_forward_,
        norm_final_;
};

}  // namespace asr

#endif
