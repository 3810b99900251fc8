/* The encoder `contextual_block_conformer`: blocks of frames, each of which sees the one
 * before through a context vector.
 *
 * A block has `size` frames and begins `hop` after the one before; its first
 * size - hop - look_ahead frames are known from there, its last look_ahead ones are only
 * looked at. Its rows are the context of the block before, its frames, and its own
 * context, which begins as the mean of the frames.
 */
#include <math.h>
#include <string.h>

#include <algorithm>

#include "encoders/encoder.h"
#include "encoders/placing.h"
#include "layers/conformer_block.h"
#include "layers/subsampling.h"

namespace asr {

namespace {

enum { MOST_BLOCK = 1 << 12, MOST_LAYERS = 1000, MOST_UNITS = 1 << 16 };

class ContextualBlock : public Encoder {
  public:
    std::unique_ptr<EncoderStream> start(const Compute &compute) const override;

    Subsampling subsampling;
    Placing placing;
    std::vector<ConformerBlock> blocks;
    LayerNorm norm; /* of width 0 if there is none */
    int64_t size = 1, hop = 1, look_ahead = 0;
    bool places_context = true;
};

class ContextualStream : public EncoderStream {
  public:
    ContextualStream(const ContextualBlock &encoder, const Compute &compute)
        : encoder_(encoder),
          compute_(compute),
          subsampling_(encoder.subsampling, compute),
          frames_(encoder.outputs),
          contexts_(encoder.blocks.size() * (size_t)encoder.outputs) {}

    void push(const float *x, int64_t n, Frames &out) override {
        subsampling_.push(x, n, frames_);
        /* The last block also outputs what it looks at: one more frame must be there. */
        while (frames_.rows() > encoder_.size) block(encoder_.size, false, out);
    }

    void finish(Frames &out) override {
        const int64_t n = frames_.rows();
        if (n == 0) return;
        if (number_ > 0) return block(n, true, out);
        float *x = frames_.row(0);
        encoder_.placing.place(x, n, 0);
        for (const ConformerBlock &one : encoder_.blocks)
            one.apply(compute_, x, n, ConformerBlock::View(), arena_);
        emit(x, n, out);
    }

  private:
    /* Run a block of n frames, the last one of the utterance if `last`. */
    void block(int64_t n, bool last, Frames &out) {
        Arena::Scope scope(arena_);
        const int64_t width = encoder_.outputs, rows = encoder_.size + 2;
        const size_t bytes = sizeof(float) * (size_t)width;
        float *x = arena_.take(rows * width), *context = x + (rows - 1) * width;
        memset(x, 0, bytes * (size_t)rows);
        memcpy(x + width, frames_.row(0), bytes * (size_t)n);
        for (int64_t i = 1; i <= n; ++i)
            for (int64_t k = 0; k < width; ++k) context[k] += x[i * width + k];
        for (int64_t k = 0; k < width; ++k) context[k] /= (float)n;
        if (encoder_.places_context) encoder_.placing.place(context, 1, number_);
        encoder_.placing.place(x + width, n, number_ * encoder_.hop);
        if (number_ == 0) before_.assign(context, context + width);
        memcpy(x, before_.data(), bytes);
        before_.assign(context, context + width);
        through(x, rows);
        const int64_t known = encoder_.size - encoder_.hop - encoder_.look_ahead;
        const int64_t from = number_ == 0 ? 0 : known;
        const int64_t to = last ? n : known + encoder_.hop;
        emit(x + (1 + from) * width, to - from, out);
        frames_.drop(std::min(encoder_.hop, frames_.rows()));
        ++number_;
    }

    void through(float *x, int64_t rows) {
        const int64_t width = encoder_.outputs;
        const size_t bytes = sizeof(float) * (size_t)width;
        ConformerBlock::View view;
        view.first = 1;
        view.end = rows - 1;
        for (size_t i = 0; i < encoder_.blocks.size(); ++i) {
            encoder_.blocks[i].apply(compute_, x, rows, view, arena_);
            const float *made = x + (rows - 1) * width;
            float *context = contexts_.data() + i * (size_t)width;
            memcpy(x, number_ == 0 ? made : context, bytes);
            memcpy(context, made, bytes);
        }
    }

    void emit(const float *x, int64_t n, Frames &out) {
        float *to = out.add(n);
        memcpy(to, x, sizeof(float) * (size_t)(n * encoder_.outputs));
        if (encoder_.norm.width) encoder_.norm.apply(compute_, to, n, to);
    }

    const ContextualBlock &encoder_;
    const Compute &compute_;
    SubsamplingStream subsampling_;
    Frames frames_;      /* of the next block and on */
    int64_t number_ = 0; /* of the next block */
    std::vector<float> before_;   /* context that the block before began with */
    std::vector<float> contexts_; /* (layers, width) that it ended with */
    Arena arena_;
};

std::unique_ptr<EncoderStream> ContextualBlock::start(const Compute &compute) const {
    return std::unique_ptr<EncoderStream>(new ContextualStream(*this, compute));
}

}  // namespace

std::unique_ptr<Encoder> load_contextual_block(Loader &loader, int64_t inputs) {
    std::unique_ptr<ContextualBlock> encoder(new ContextualBlock);
    encoder->inputs = inputs;
    encoder->outputs = loader.number("encoder.units", 1, MOST_UNITS);
    encoder->streams = true;
    encoder->subsampling = Subsampling::load(loader, inputs, encoder->outputs);
    encoder->stride = encoder->subsampling.stride();
    encoder->placing = Placing::load(loader, encoder->outputs);
    if (encoder->placing.attention() != PLAIN)
        loader.refuse("has relative positions, which contextual blocks do not have");
    if (loader.flag("encoder.norm"))
        encoder->norm = LayerNorm::load(loader, "encoder.norm", encoder->outputs);
    encoder->size = loader.number("encoder.blocks.size", 1, MOST_BLOCK);
    encoder->hop = loader.number("encoder.blocks.hop", 1, encoder->size);
    encoder->look_ahead =
        loader.number("encoder.blocks.look_ahead", 0, encoder->size - encoder->hop);
    encoder->places_context = loader.flag("encoder.blocks.places_context");
    ConformerShape shape;
    shape.width = encoder->outputs;
    shape.load(loader);
    const int64_t layers = loader.number("encoder.layers", 1, MOST_LAYERS);
    for (int64_t i = 0; i < layers && loader.ok(); ++i) {
        const std::string name = "encoder.block." + std::to_string(i);
        encoder->blocks.push_back(ConformerBlock::load(loader, name, shape));
    }
    return loader.ok() ? std::move(encoder) : nullptr;
}

}  // namespace asr
