/* Memory for intermediate results, which a stream keeps and its layers take in turns. */
#ifndef GQ_ASR_ARENA_H
#define GQ_ASR_ARENA_H

#include <stdint.h>

#include <memory>
#include <vector>

namespace asr {

class Arena {
  public:
    /* What is taken while a Scope lives is free again after it. */
    class Scope {
      public:
        explicit Scope(Arena &arena)
            : arena_(arena), block_(arena.block_), used_(arena.used_) {}
        ~Scope() { arena_.release(block_, used_); }
        Scope(const Scope &) = delete;
        Scope &operator=(const Scope &) = delete;

      private:
        Arena &arena_;
        size_t block_, used_;
    };

    Arena() = default;
    Arena(const Arena &) = delete;
    Arena &operator=(const Arena &) = delete;

    /* n floats of any value, aligned to 64 bytes; at least 16 more may be read. */
    float *take(int64_t n);

  private:
    struct Block {
        std::unique_ptr<float[]> memory;
        float *begin;
        size_t size;
    };
    void release(size_t block, size_t used);
    void grow(size_t size);

    std::vector<Block> blocks_;
    size_t block_ = 0, used_ = 0; /* the current block, and floats taken of it */
};

}  // namespace asr

#endif
