#include "layers/branchformer_block.h"

#include <string.h>

#include <algorithm>

#include "layers/loops.h"

namespace asr {

namespace {

enum { BLOCK = 64, MOST_HEADS = 1 << 10 }; /* rows at a time */

}  // namespace

void BranchformerShape::load(Loader &loader) {
    heads = loader.number("encoder.heads", 1, MOST_HEADS);
    feeds = loader.flag("encoder.feed_forward");
    macaron = loader.flag("encoder.macaron");
    gate = load_activation(loader, "encoder.gate.activation");
    gate_layer = loader.flag("encoder.gate.layer");
    if (feeds || macaron)
        feed_forward = load_activation(loader, "encoder.feed_forward.activation");
}

BranchformerBlock BranchformerBlock::load(Loader &loader, const std::string &name,
                                          const BranchformerShape &shape) {
    BranchformerBlock block;
    const int64_t width = shape.width;
    block.shape_ = shape;
    const auto feed_forward = [&](const char *part) {
        return FeedForward::load(loader, name + part, width, 1, 1, shape.feed_forward);
    };
    const auto norm = [&](const char *part, int64_t size) {
        return LayerNorm::load(loader, name + part, size);
    };
    if (shape.macaron) {
        block.macaron_ = feed_forward(".macaron");
        block.norm_macaron_ = norm(".norm_macaron", width);
    }
    if (shape.feeds) {
        block.feed_forward_ = feed_forward(".feed_forward");
        block.norm_feed_forward_ = norm(".norm_feed_forward", width);
    }
    block.attention_ = Attention::load(loader, name + ".attention", shape.attention,
                                       shape.heads, width);
    block.norm_attention_ = norm(".norm_attention", width);
    block.norm_conv_ = norm(".norm_conv", width);
    block.in_ = loader.matrix(name + ".conv.in", -1, width);
    const int64_t half = block.in_.rows() / 2;
    if (loader.ok() && (block.in_.rows() % 2 || half == 0))
        loader.refuse("has an odd number of rows in %s.conv.in", name.c_str());
    block.norm_gate_ = norm(".conv.norm", half);
    block.conv_ = Depthwise::load(loader, name + ".conv.depthwise", half, false);
    if (shape.gate_layer) block.gate_ = loader.matrix(name + ".conv.gate", half, half);
    block.out_ = loader.matrix(name + ".conv.out", width, half);
    block.fusion_ = Depthwise::load(loader, name + ".fusion", 2 * width, false);
    block.merge_ = loader.matrix(name + ".merge", width, 2 * width);
    block.norm_final_ = norm(".norm_final", width);
    return block;
}

void BranchformerBlock::feed(const Compute &compute, const FeedForward &layer,
                             const LayerNorm &norm, float *x, int64_t n,
                             Arena &arena) const {
    Arena::Scope scope(arena);
    float *normal = arena.take(n * shape_.width), *y = arena.take(n * shape_.width);
    norm.apply(compute, x, n, normal);
    layer.apply(compute, normal, n, arena, y);
    loops(compute.isa).add(shape_.macaron ? 0.5f : 1.0f, y, x, n * shape_.width);
}

/* Write attention(norm(x)) into out (n, width). */
void BranchformerBlock::attend(const Compute &compute, const float *x, int64_t n,
                               const float *positions, float *out, Arena &arena) const {
    Arena::Scope scope(arena);
    float *normal = arena.take(n * shape_.width);
    norm_attention_.apply(compute, x, n, normal);
    attention_.apply(compute, normal, n, positions, arena, out);
}

/* Write cgmlp(norm(x)) into out (n, width). */
void BranchformerBlock::convolve(const Compute &compute, const float *x, int64_t n,
                                 float *out, Arena &arena) const {
    Arena::Scope scope(arena);
    const Loops &with = loops(compute.isa);
    const int64_t width = shape_.width, half = in_.rows() / 2;
    const int64_t context = conv_.taps() - 1, before = context / 2;
    const int64_t most = std::min<int64_t>(n, BLOCK);
    const size_t size = sizeof(float) * (size_t)half;
    float *left = arena.take(n * half), *right = arena.take((n + context) * half);
    float *normal = arena.take(most * width), *wide = arena.take(most * 2 * half);
    float *made = arena.take(most * half), *gate = arena.take(most * half);
    const float *unpacked = conv_.unpack(compute, arena);
    memset(right, 0, size * (size_t)before);
    memset(right + (before + n) * half, 0, size * (size_t)(context - before));
    for (int64_t i = 0; i < n; i += BLOCK) {
        const int64_t count = std::min<int64_t>(BLOCK, n - i);
        float *to = right + (before + i) * half;
        norm_conv_.apply(compute, x + i * width, count, normal);
        in_.apply(compute, normal, count, wide);
        with.activate(Activation::GELU, wide, count * 2 * half);
        for (int64_t k = 0; k < count; ++k) {
            memcpy(left + (i + k) * half, wide + 2 * k * half, size);
            memcpy(to + k * half, wide + (2 * k + 1) * half, size);
        }
        norm_gate_.apply(compute, to, count, to);
    }
    for (int64_t i = 0; i < n; i += BLOCK) {
        const int64_t count = std::min<int64_t>(BLOCK, n - i);
        float *gated = made;
        conv_.apply(compute, unpacked, right + i * half, half, count, made, half);
        if (shape_.gate_layer) {
            gate_.apply(compute, made, count, gate);
            gated = gate;
        }
        with.activate(shape_.gate, gated, count * half);
        with.multiply(left + i * half, gated, count * half);
        out_.apply(compute, gated, count, out + i * width);
    }
}

/* x += W_merge (both + depthwise(both)). both: (n + taps - 1, 2 width), zeros around. */
void BranchformerBlock::merge(const Compute &compute, const float *both, float *x,
                              int64_t n, Arena &arena) const {
    Arena::Scope scope(arena);
    const Loops &with = loops(compute.isa);
    const int64_t width = shape_.width, before = fusion_.taps() / 2;
    const int64_t most = std::min<int64_t>(n, BLOCK);
    float *made = arena.take(most * 2 * width), *y = arena.take(most * width);
    const float *unpacked = fusion_.unpack(compute, arena);
    for (int64_t i = 0; i < n; i += BLOCK) {
        const int64_t count = std::min<int64_t>(BLOCK, n - i);
        const float *from = both + i * 2 * width;
        fusion_.apply(compute, unpacked, from, 2 * width, count, made, 2 * width);
        with.add(1.0f, from + before * 2 * width, made, count * 2 * width);
        merge_.apply(compute, made, count, y);
        with.add(1.0f, y, x + i * width, count * width);
    }
}

void BranchformerBlock::apply(const Compute &compute, float *x, int64_t n,
                              const float *positions, Arena &arena) const {
    const int64_t width = shape_.width, taps = fusion_.taps();
    if (shape_.macaron) feed(compute, macaron_, norm_macaron_, x, n, arena);
    {
        Arena::Scope scope(arena);
        float *both = arena.take((n + taps - 1) * 2 * width);
        float *rows = both + taps / 2 * 2 * width, *side = arena.take(n * width);
        memset(both, 0, sizeof(float) * (size_t)((n + taps - 1) * 2 * width));
        attend(compute, x, n, positions, side, arena);
        for (int64_t i = 0; i < n; ++i)
            memcpy(rows + 2 * i * width, side + i * width, sizeof(float) * (size_t)width);
        convolve(compute, x, n, side, arena);
        for (int64_t i = 0; i < n; ++i)
            memcpy(rows + (2 * i + 1) * width, side + i * width,
                   sizeof(float) * (size_t)width);
        merge(compute, both, x, n, arena);
    }
    if (shape_.feeds) feed(compute, feed_forward_, norm_feed_forward_, x, n, arena);
    norm_final_.apply(compute, x, n, x);
}

}  // namespace asr
