/* Fuzz target: any bytes as a WAV file, read by the program's reader; what it accepts is
 * recognized by the model that the variable GQ_ASR_FUZZ_MODEL names, if it is set. */
#include <stdio.h>
#include <stdlib.h>

#include "gq_asr.h"
#include "program/wav.h"

namespace {

enum { MOST_SAMPLES = 4000 };

void require(bool right) {
    if (!right) abort();
}

gq_asr_stream *open_stream() {
    const char *path = getenv("GQ_ASR_FUZZ_MODEL");
    if (!path) return nullptr;
    gq_asr_model *model;
    gq_asr_stream *stream;
    require(gq_asr_model_open(path, &model, nullptr) == GQ_ASR_OK);
    require(gq_asr_stream_open(model, nullptr, &stream, nullptr) == GQ_ASR_OK);
    gq_asr_model_close(model); /* the stream keeps it */
    return stream;
}

void recognize(gq_asr_stream *stream, const std::vector<float> &samples, int64_t *left) {
    int64_t n = (int64_t)samples.size();
    if (!stream || *left <= 0) return;
    if (n > *left) n = *left;
    *left -= n;
    gq_asr_error error;
    const int code = gq_asr_stream_feed(stream, samples.data(), n, &error);
    require(code == GQ_ASR_OK || code == GQ_ASR_BAD_ARGUMENT ||
            code == GQ_ASR_BAD_STATE);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static gq_asr_stream *const stream = open_stream();
    FILE *file = size ? fmemopen((void *)data, size, "rb") : nullptr;
    if (!file) return 0;
    Wav wav;
    if (!wav.open(file).empty()) return 0;
    require(wav.rate > 0 && wav.channels > 0);
    if (stream) gq_asr_stream_reset(stream, nullptr);
    std::vector<float> samples;
    int64_t seen = 0, left = MOST_SAMPLES;
    for (;;) {
        wav.read(160, &samples);
        if (samples.empty()) break;
        seen += (int64_t)samples.size();
        require(seen <= (int64_t)size);
        recognize(stream, samples, &left);
    }
    wav.end();
    if (stream) gq_asr_stream_finish(stream, nullptr);
    return 0;
}
