#include "encoders/placing.h"

#include <math.h>

#include <algorithm>
#include <string>
#include <vector>

namespace asr {

namespace {

const struct {
    const char *name;
    Placing::Kind kind;
} KINDS[] = {
    {"absolute", Placing::ABSOLUTE},
    {"relative", Placing::RELATIVE},
    {"shifted", Placing::SHIFTED},
};

}  // namespace

Placing Placing::load(Loader &loader, int64_t width) {
    Placing found;
    const std::string name = loader.text("encoder.positions");
    const auto *end = KINDS + sizeof KINDS / sizeof *KINDS;
    const auto *one = std::find_if(KINDS, end, [&](const auto &k) { return name == k.name; });
    if (one == end) {
        loader.refuse("has an unknown gqasr.encoder.positions; allowed: absolute, relative, "
                      "shifted");
        return found;
    }
    found.kind = one->kind;
    found.positions = Positions::load(loader, "encoder.positions", width);
    if (loader.flag("encoder.scaled")) found.factor = (float)sqrt((double)width);
    if (loader.has_tensor("encoder.positions.alpha"))
        found.alpha = *loader.floats("encoder.positions.alpha", 1);
    if (found.kind == SHIFTED)
        found.longest = loader.number("encoder.positions.longest", 1, 1 << 24);
    return found;
}

void Placing::place(float *x, int64_t n, int64_t first) const {
    const int64_t width = positions.width;
    std::vector<float> encoded((size_t)width);
    for (int64_t i = 0; i < n; ++i, x += width) {
        if (factor != 1.0f)
            for (int64_t k = 0; k < width; ++k) x[k] *= factor;
        if (kind != ABSOLUTE) continue;
        positions.encode(first + i, 1, 1, encoded.data());
        for (int64_t k = 0; k < width; ++k) x[k] += alpha * encoded[(size_t)k];
    }
}

const float *Placing::encodings(int64_t n, Arena &arena) const {
    if (kind == ABSOLUTE) return nullptr;
    const int64_t count = kind == RELATIVE ? 2 * n - 1 : n;
    float *out = arena.take(count * positions.width);
    positions.encode(kind == RELATIVE ? n - 1 : std::max(longest, n) - 1, -1, count, out);
    return out;
}

}  // namespace asr
