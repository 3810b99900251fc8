#include "layers/positions.h"

#include <math.h>

namespace asr {

Positions Positions::load(Loader &loader, const std::string &name, int64_t width) {
    Positions positions;
    positions.width = width;
    positions.frequency = loader.floats(name + ".frequencies", (width + 1) / 2);
    return positions;
}

void Positions::encode(int64_t first, int64_t step, int64_t n, float *out) const {
    for (int64_t i = 0; i < n; ++i, out += width) {
        const float position = (float)(first + i * step);
        for (int64_t j = 0; j < width; j += 2) {
            const float angle = position * frequency[j / 2];
            out[j] = sinf(angle);
            if (j + 1 < width) out[j + 1] = cosf(angle);
        }
    }
}

}  // namespace asr
