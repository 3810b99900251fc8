/* Encoders that attend to the whole utterance: features are subsampled as they arrive,
 * the blocks run when the utterance has ended. */
#ifndef GQ_ASR_WHOLE_H
#define GQ_ASR_WHOLE_H

#include <string.h>

#include <string>
#include <vector>

#include "encoders/encoder.h"
#include "encoders/placing.h"
#include "layers/arena.h"
#include "layers/normalization.h"
#include "layers/subsampling.h"

namespace asr {

/* Block: has apply(compute, x, n, positions, arena). */
template <class Block>
class WholeEncoder : public Encoder {
  public:
    std::unique_ptr<EncoderStream> start(const Compute &compute) const override;

    /* Read all but the blocks: of `inputs` features, and the number of blocks. */
    int64_t load(Loader &loader, int64_t features) {
        inputs = features;
        outputs = loader.number("encoder.units", 1, 1 << 16);
        subsampling = Subsampling::load(loader, inputs, outputs);
        stride = subsampling.stride();
        placing = Placing::load(loader, outputs);
        if (loader.flag("encoder.norm"))
            norm = LayerNorm::load(loader, "encoder.norm", outputs);
        return loader.number("encoder.layers", 1, 1000);
    }

    Subsampling subsampling;
    Placing placing;
    std::vector<Block> blocks;
    LayerNorm norm; /* of the output; of width 0 if there is none */
};

template <class Block>
class WholeStream : public EncoderStream {
  public:
    WholeStream(const WholeEncoder<Block> &encoder, const Compute &compute)
        : encoder_(encoder),
          compute_(compute),
          subsampling_(encoder.subsampling, compute),
          frames_(encoder.outputs) {}

    void push(const float *x, int64_t n, Frames &) override {
        subsampling_.push(x, n, frames_);
    }

    void finish(Frames &out) override {
        const int64_t n = frames_.rows();
        if (n == 0) return;
        Arena::Scope scope(arena_);
        float *x = frames_.row(0);
        encoder_.placing.place(x, n, 0);
        const float *positions = encoder_.placing.encodings(n, arena_);
        for (const Block &block : encoder_.blocks)
            block.apply(compute_, x, n, positions, arena_);
        if (encoder_.norm.width) encoder_.norm.apply(compute_, x, n, x);
        memcpy(out.add(n), x, sizeof(float) * (size_t)(n * frames_.width));
        frames_.clear();
    }

  private:
    const WholeEncoder<Block> &encoder_;
    const Compute &compute_;
    SubsamplingStream subsampling_;
    Frames frames_;
    Arena arena_;
};

template <class Block>
std::unique_ptr<EncoderStream> WholeEncoder<Block>::start(const Compute &compute) const {
    return std::unique_ptr<EncoderStream>(new WholeStream<Block>(*this, compute));
}

}  // namespace asr

#endif
