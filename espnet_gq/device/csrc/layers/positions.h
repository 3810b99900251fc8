/* Sinusoidal encodings of positions:
 *
 *     e(p)[2 i] = sin(p f[i]),  e(p)[2 i + 1] = cos(p f[i])
 *
 * The frequencies f come with the model, so that they round as those of the training.
 */
#ifndef GQ_ASR_POSITIONS_H
#define GQ_ASR_POSITIONS_H

#include <string>

#include "file/loader.h"

namespace asr {

struct Positions {
    int64_t width = 0;
    const float *frequency = nullptr; /* (ceil(width / 2)) */

    /* The tensor NAME.frequencies. */
    static Positions load(Loader &loader, const std::string &name, int64_t width);

    /* The encodings of first, first + step, ...: out (n, width). */
    void encode(int64_t first, int64_t step, int64_t n, float *out) const;
};

}  // namespace asr

#endif
