/* Fuzzing: a WAV file from anywhere. */
#include "program/wav.h"

#include <stdint.h>
#include <stdlib.h>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    FILE *file = size ? fmemopen((void *)data, size, "rb") : nullptr;
    if (!file) return 0;
    Wav wav;
    if (!wav.open(file).empty()) return 0;
    if (wav.rate < 1 || wav.channels < 1) abort();
    std::vector<float> samples;
    size_t total = 0;
    do {
        wav.read(100, &samples);
        total += samples.size();
    } while (!samples.empty());
    if (total > size) abort();
    wav.end();
    return 0;
}
