/* A block of a Conformer: x + s FF(x), x + attention(x), x + convolution(x), x + s FF(x),
 * each with a layer normalization before it, or after the sum; then one of the result.
 * Without the first FF, s is 1, else 1/2.
 */
#ifndef GQ_ASR_CONFORMER_BLOCK_H
#define GQ_ASR_CONFORMER_BLOCK_H

#include <string>
#include <vector>

#include "layers/attention.h"
#include "layers/conv_module.h"
#include "layers/feed_forward.h"
#include "layers/normalization.h"

namespace asr {

/* What all blocks of an encoder have in common: the settings encoder.NAME. */
struct ConformerShape {
    int64_t width = 0, heads = 1;
    AttentionKind attention = PLAIN;
    Activation activation = Activation::SWISH;      /* of the convolution module */
    Activation feed_forward = Activation::SWISH;
    int64_t inner_taps = 1, outer_taps = 1;         /* of the feed-forward layers */
    bool macaron = true, convolution = true;
    bool normalize_before = true, concatenate = false;

    /* All but width and attention. */
    void load(Loader &loader);
};

/* What a block keeps of the frames before. */
struct BlockPast {
    std::vector<float> keys, values; /* (frames, width), the last ones */
    std::vector<float> gated;        /* (taps - 1, width) */
};

class ConformerBlock {
  public:
    /* What the attention of a call sees. */
    struct View {
        /* Encodings of relative positions, see Attention; NULL of PLAIN. */
        const float *positions = nullptr;
        /* Rows before `first` attend to nothing, the others to the rows before `end`
         * (negative: to all). */
        int64_t first = 0, end = -1;
    };

    static ConformerBlock load(Loader &loader, const std::string &name,
                               const ConformerShape &shape);

    /* Replace x (n, width) by the output for a whole sequence. */
    void apply(const Compute &compute, float *x, int64_t n, const View &view,
               Arena &arena) const;

    /* The same for the next rows of a causal block, which sees the last `left` rows
     * before x. places: encodings of relative positions from left + n - 1 to 1 - n, W_pos
     * applied; its row `zero` is that of position 0. */
    void step(const Compute &compute, float *x, int64_t n, BlockPast &past, int64_t left,
              const float *places, int64_t zero, Arena &arena) const;

    const Attention &attention() const { return attention_; }
    int64_t taps() const { return shape_.convolution ? conv_.depthwise.taps() : 1; }

  private:
    void feed(const Compute &compute, const FeedForward &layer, const LayerNorm &norm,
              float *x, int64_t n, Arena &arena) const;
    void convolve(const Compute &compute, float *x, int64_t n, float *past,
                  Arena &arena) const;
    void attend(const Compute &compute, float *x, int64_t n, const View &view,
                Arena &arena) const;
    void add(const Compute &compute, float factor, const float *y, const LayerNorm &norm,
             float *x, int64_t n) const;

    ConformerShape shape_;
    FeedForward macaron_, feed_forward_;
    Attention attention_;
    ConvModule conv_;
    Matrix concatenated_; /* (width, 2 * width) */
    LayerNorm norm_macaron_, norm_attention_, norm_conv_, norm_feed_forward_, norm_final_;
};

}  // namespace asr

#endif
