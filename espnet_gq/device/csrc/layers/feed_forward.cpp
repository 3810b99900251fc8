#include "layers/feed_forward.h"

#include <string.h>

#include <algorithm>

#include "layers/loops.h"

namespace asr {

namespace {

enum { BLOCK = 64 }; /* rows at a time */

/* The rows first - taps / 2 to first + taps / 2 of x (n, width), zeros beyond its ends,
 * for each of `count` rows: out (count, taps * width). */
void gather(const float *x, int64_t n, int64_t width, int64_t taps, int64_t first,
            int64_t count, float *out) {
    for (int64_t i = first; i < first + count; ++i)
        for (int64_t k = i - taps / 2; k <= i + taps / 2; ++k, out += width) {
            if (k < 0 || k >= n)
                memset(out, 0, (size_t)width * sizeof *out);
            else
                memcpy(out, x + k * width, (size_t)width * sizeof *out);
        }
}

/* Rows first, ..., first + count - 1 of a convolution of x (n, width). */
void convolve(const Compute &compute, const Matrix &weight, int64_t taps, const float *x,
              int64_t n, int64_t first, int64_t count, Arena &arena, float *out) {
    if (taps == 1) return weight.apply(compute, x + first * weight.cols(), count, out);
    Arena::Scope scope(arena);
    float *windows = arena.take(count * weight.cols());
    gather(x, n, weight.cols() / taps, taps, first, count, windows);
    weight.apply_exactly(compute, windows, count, out);
}

}  // namespace

FeedForward FeedForward::load(Loader &loader, const std::string &name, int64_t width,
                              int64_t inner_taps, int64_t outer_taps,
                              Activation activation) {
    FeedForward found;
    found.activation = activation;
    found.inner_taps = inner_taps;
    found.outer_taps = outer_taps;
    if (inner_taps % 2 == 0 || outer_taps % 2 == 0)
        loader.refuse("has an even number of taps in %s", name.c_str());
    found.inner = loader.matrix(name + ".inner", -1, width * inner_taps);
    found.outer = loader.matrix(name + ".outer", width, found.inner.rows() * outer_taps);
    return found;
}

void FeedForward::apply(const Compute &compute, const float *x, int64_t n, Arena &arena,
                        float *result) const {
    Arena::Scope scope(arena);
    const int64_t units = inner.rows(), around = outer_taps / 2;
    float *hidden = arena.take(std::min<int64_t>(n, BLOCK + 2 * around) * units);
    for (int64_t i = 0; i < n; i += BLOCK) {
        const int64_t count = std::min<int64_t>(BLOCK, n - i);
        const int64_t from = std::max<int64_t>(i - around, 0);
        const int64_t to = std::min(i + count + around, n);
        convolve(compute, inner, inner_taps, x, n, from, to - from, arena, hidden);
        loops(compute.isa).activate(activation, hidden, (to - from) * units);
        convolve(compute, outer, outer_taps, hidden, to - from, i - from, count, arena,
                 result + i * outer.rows());
    }
}

}  // namespace asr
