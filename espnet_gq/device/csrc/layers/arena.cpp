#include "layers/arena.h"

namespace asr {

namespace {

constexpr size_t LINE = 16, LEAST = 1 << 14; /* floats */

}  // namespace

void Arena::grow(size_t size) {
    Block block;
    block.size = size;
    block.memory.reset(new float[size + LINE]());
    const uintptr_t at = (uintptr_t)block.memory.get();
    block.begin = block.memory.get() + (-at % (LINE * sizeof(float))) / sizeof(float);
    blocks_.push_back(std::move(block));
}

float *Arena::take(int64_t n) {
    const size_t size = ((size_t)n + LINE - 1) / LINE * LINE + LINE;
    if (blocks_.empty()) grow(size > LEAST ? size : LEAST);
    while (used_ + size > blocks_[block_].size) { /* a scope of its end frees it */
        if (block_ + 1 == blocks_.size()) grow(size > LEAST ? size : LEAST);
        ++block_;
        used_ = 0;
    }
    float *taken = blocks_[block_].begin + used_;
    used_ += size;
    return taken;
}

void Arena::release(size_t block, size_t used) {
    block_ = block;
    used_ = used;
    if (block || used || blocks_.size() < 2) return;
    size_t size = 0; /* nothing is taken: one block instead of many */
    for (const Block &each : blocks_) size += each.size;
    blocks_.clear();
    grow(size);
}

}  // namespace asr
