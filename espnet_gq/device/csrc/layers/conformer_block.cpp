#include "layers/conformer_block.h"

#include <string.h>

#include <algorithm>

#include "layers/loops.h"

namespace asr {

namespace {

enum { MOST_TAPS = 101, MOST_HEADS = 1 << 10 };

/* Keep the last `most` rows of `kept` and n more. */
void append(std::vector<float> &kept, const float *x, int64_t n, int64_t width,
            int64_t most) {
    kept.insert(kept.end(), x, x + n * width);
    const int64_t rows = (int64_t)kept.size() / width;
    if (rows > most) kept.erase(kept.begin(), kept.begin() + (rows - most) * width);
}

}  // namespace

void ConformerShape::load(Loader &loader) {
    heads = loader.number("encoder.heads", 1, MOST_HEADS);
    activation = load_activation(loader, "encoder.activation");
    feed_forward = load_activation(loader, "encoder.feed_forward.activation");
    const std::vector<int64_t> taps =
        loader.numbers("encoder.feed_forward.taps", 2, 1, MOST_TAPS);
    inner_taps = taps[0];
    outer_taps = taps[1];
    macaron = loader.flag("encoder.macaron");
    convolution = loader.flag("encoder.convolution");
    normalize_before = loader.flag("encoder.normalize_before");
    concatenate = loader.flag("encoder.concatenate");
}

ConformerBlock ConformerBlock::load(Loader &loader, const std::string &name,
                                    const ConformerShape &shape) {
    ConformerBlock block;
    const int64_t width = shape.width;
    block.shape_ = shape;
    const auto feed_forward = [&](const char *part) {
        return FeedForward::load(loader, name + part, width, shape.inner_taps,
                                 shape.outer_taps, shape.feed_forward);
    };
    const auto norm = [&](const char *part) {
        return LayerNorm::load(loader, name + part, width);
    };
    if (shape.macaron) {
        block.macaron_ = feed_forward(".macaron");
        block.norm_macaron_ = norm(".norm_macaron");
    }
    block.attention_ = Attention::load(loader, name + ".attention", shape.attention,
                                       shape.heads, width);
    block.norm_attention_ = norm(".norm_attention");
    if (shape.concatenate)
        block.concatenated_ = loader.matrix(name + ".concatenated", width, 2 * width);
    if (shape.convolution) {
        block.conv_ = ConvModule::load(loader, name + ".conv", width, shape.activation);
        block.norm_conv_ = norm(".norm_conv");
        block.norm_final_ = norm(".norm_final");
    }
    block.feed_forward_ = feed_forward(".feed_forward");
    block.norm_feed_forward_ = norm(".norm_feed_forward");
    return block;
}

/* x += factor * y, and the normalization after the sum. */
void ConformerBlock::add(const Compute &compute, float factor, const float *y,
                         const LayerNorm &norm, float *x, int64_t n) const {
    loops(compute.isa).add(factor, y, x, n * shape_.width);
    if (!shape_.normalize_before) norm.apply(compute, x, n, x);
}

void ConformerBlock::feed(const Compute &compute, const FeedForward &layer,
                          const LayerNorm &norm, float *x, int64_t n,
                          Arena &arena) const {
    Arena::Scope scope(arena);
    float *normal = arena.take(n * shape_.width), *y = arena.take(n * shape_.width);
    const float *in = x;
    if (shape_.normalize_before) {
        norm.apply(compute, x, n, normal);
        in = normal;
    }
    layer.apply(compute, in, n, arena, y);
    add(compute, shape_.macaron ? 0.5f : 1.0f, y, norm, x, n);
}

void ConformerBlock::convolve(const Compute &compute, float *x, int64_t n, float *past,
                              Arena &arena) const {
    Arena::Scope scope(arena);
    float *normal = arena.take(n * shape_.width), *y = arena.take(n * shape_.width);
    const float *in = x;
    if (shape_.normalize_before) {
        norm_conv_.apply(compute, x, n, normal);
        in = normal;
    }
    conv_.apply(compute, in, n, past, arena, y);
    add(compute, 1.0f, y, norm_conv_, x, n);
}

void ConformerBlock::attend(const Compute &compute, float *x, int64_t n,
                            const View &view, Arena &arena) const {
    Arena::Scope scope(arena);
    const int64_t width = shape_.width;
    float *normal = arena.take(n * width), *y = arena.take(n * width);
    const float *in = x;
    if (shape_.normalize_before) {
        norm_attention_.apply(compute, x, n, normal);
        in = normal;
    }
    attention_.apply(compute, in, n, view.positions, arena, y, view.first, view.end);
    if (shape_.concatenate) {
        float *both = arena.take(n * 2 * width);
        for (int64_t i = 0; i < n; ++i) {
            memcpy(both + i * 2 * width, in + i * width, sizeof(float) * (size_t)width);
            memcpy(both + (i * 2 + 1) * width, y + i * width,
                   sizeof(float) * (size_t)width);
        }
        concatenated_.apply(compute, both, n, y);
    }
    add(compute, 1.0f, y, norm_attention_, x, n);
}

void ConformerBlock::apply(const Compute &compute, float *x, int64_t n, const View &view,
                           Arena &arena) const {
    if (shape_.macaron) feed(compute, macaron_, norm_macaron_, x, n, arena);
    attend(compute, x, n, view, arena);
    if (shape_.convolution) convolve(compute, x, n, nullptr, arena);
    feed(compute, feed_forward_, norm_feed_forward_, x, n, arena);
    if (shape_.convolution) norm_final_.apply(compute, x, n, x);
}

void ConformerBlock::step(const Compute &compute, float *x, int64_t n, BlockPast &past,
                          int64_t left, const float *places, int64_t zero,
                          Arena &arena) const {
    const int64_t width = shape_.width;
    feed(compute, macaron_, norm_macaron_, x, n, arena);
    {
        Arena::Scope scope(arena);
        const int64_t before = (int64_t)past.keys.size() / width, keys = before + n;
        const size_t size = sizeof(float) * (size_t)(before * width);
        float *in = arena.take(n * width), *q = arena.take(n * width);
        float *k = arena.take(keys * width), *v = arena.take(keys * width);
        norm_attention_.apply(compute, x, n, in);
        attention_.query.apply(compute, in, n, q);
        if (before > 0) {
            memcpy(k, past.keys.data(), size);
            memcpy(v, past.values.data(), size);
        }
        attention_.key.apply(compute, in, n, k + before * width);
        attention_.value.apply(compute, in, n, v + before * width);
        append(past.keys, k + before * width, n, width, left);
        append(past.values, v + before * width, n, width, left);
        attention_.attend(loops(compute.isa), q, n, k, v, keys,
                          places + (zero - (keys - 1)) * width, arena);
        attention_.out.apply(compute, q, n, in);
        loops(compute.isa).add(1.0f, in, x, n * width);
    }
    past.gated.resize((size_t)((taps() - 1) * width), 0.0f);
    convolve(compute, x, n, past.gated.data(), arena);
    feed(compute, feed_forward_, norm_feed_forward_, x, n, arena);
    norm_final_.apply(compute, x, n, x);
}

}  // namespace asr
