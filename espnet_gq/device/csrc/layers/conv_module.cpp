#include "layers/conv_module.h"

#include <string.h>

#include <algorithm>

#include "layers/loops.h"

namespace asr {

namespace {

enum { BLOCK = 64 }; /* rows at a time */

}  // namespace

ConvModule ConvModule::load(Loader &loader, const std::string &name, int64_t width,
                            Activation activation) {
    ConvModule found;
    found.activation = activation;
    found.in = loader.matrix(name + ".in", 2 * width, width);
    found.depthwise = Depthwise::load(loader, name + ".depthwise", width, true);
    found.out = loader.matrix(name + ".out", width, width);
    return found;
}

void ConvModule::apply(const Compute &compute, const float *x, int64_t n, float *past,
                       Arena &arena, float *result) const {
    Arena::Scope scope(arena);
    const Loops &with = loops(compute.isa);
    const int64_t width = out.rows(), context = depthwise.taps() - 1;
    const int64_t before = past ? context : context / 2;
    const int64_t most = std::min<int64_t>(n, BLOCK);
    float *rows = arena.take((n + context) * width);
    float *open = arena.take(most * 2 * width), *made = arena.take(most * width);
    const float *unpacked = depthwise.unpack(compute, arena);
    const size_t size = sizeof(float) * (size_t)width;
    if (past)
        memcpy(rows, past, size * (size_t)context);
    else
        memset(rows, 0, size * (size_t)before);
    memset(rows + (before + n) * width, 0, size * (size_t)(context - before));
    for (int64_t i = 0; i < n; i += BLOCK) {
        const int64_t count = std::min<int64_t>(BLOCK, n - i);
        in.apply(compute, x + i * width, count, open);
        with.gate(open, count, width, rows + (before + i) * width);
    }
    if (past) memcpy(past, rows + n * width, size * (size_t)context);
    for (int64_t i = 0; i < n; i += BLOCK) {
        const int64_t count = std::min<int64_t>(BLOCK, n - i);
        depthwise.apply(compute, unpacked, rows + i * width, width, count, made, width);
        with.activate(activation, made, count * width);
        out.apply(compute, made, count, result + i * width);
    }
}

}  // namespace asr
