#include "layers/depthwise.h"

#include <string.h>

#include "layers/loops.h"

namespace asr {

namespace {

enum { MOST_TAPS = 10001 };

}  // namespace

Depthwise Depthwise::load(Loader &loader, const std::string &name, int64_t channels,
                          bool affine) {
    Depthwise found;
    found.weight = loader.matrix(name, channels, -1);
    if (!loader.ok()) return found;
    if (found.taps() % 2 == 0 || found.taps() > MOST_TAPS)
        loader.refuse("has %lld taps in %s; allowed: an odd number, at most %d",
                      (long long)found.taps(), name.c_str(), MOST_TAPS);
    if (affine) {
        found.gain = loader.floats(name + ".gain", channels);
        found.shift = loader.floats(name + ".shift", channels);
    } else {
        found.shift = loader.floats(name + ".bias", channels);
    }
    return found;
}

const float *Depthwise::unpack(const Compute &compute, Arena &arena) const {
    const int64_t n = channels(), rows = taps();
    float *out = arena.take(rows * ld());
    if (weight.is_packed()) {
        compute.check(
            gq_values(&weight.packed, 0, n, out, compute.threads, compute.isa));
        for (int64_t k = rows - 1; k > 0 && ld() != n; --k)
            memmove(out + k * ld(), out + k * n, (size_t)n * sizeof *out);
    } else {
        for (int64_t k = 0; k < rows; ++k)
            for (int64_t c = 0; c < n; ++c) out[k * ld() + c] = weight.values[c * rows + k];
    }
    return out;
}

void Depthwise::apply(const Compute &compute, const float *unpacked, const float *x,
                      int64_t ldx, int64_t n, float *out, int64_t ldo) const {
    loops(compute.isa).depthwise(x, ldx, unpacked, ld(), gain, shift, n, channels(),
                                 taps(), out, ldo);
}

}  // namespace asr
