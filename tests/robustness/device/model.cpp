/* Fuzzing: a model file from anywhere, opened and used. */
#include <math.h>
#include <stdlib.h>

#include "gq_asr.h"

namespace {

void use(const gq_asr_model *model, int mode, int beam) {
    float samples[700];
    for (int i = 0; i < 700; ++i) samples[i] = sinf(0.05f * (float)i * (float)(1 + i / 90));
    gq_asr_options options;
    gq_asr_default_options(&options);
    options.mode = mode;
    options.beam = options.nbest = beam;
    gq_asr_stream *stream;
    if (gq_asr_stream_open(model, &options, &stream, nullptr) != GQ_ASR_OK) return;
    gq_asr_stream_feed(stream, samples, 100, nullptr);
    gq_asr_stream_feed(stream, samples + 100, 600, nullptr);
    gq_asr_stream_finish(stream, nullptr);
    const int64_t count = gq_asr_stream_results(stream);
    for (int64_t i = 0; i <= count; ++i) {
        gq_asr_result result;
        const int code = gq_asr_stream_result(stream, i, &result, nullptr);
        if ((code == GQ_ASR_OK) != (i < count)) abort();
        for (int64_t k = 0; code == GQ_ASR_OK && k < result.tokens; ++k)
            if (!gq_asr_model_token(model, result.token[k])) abort();
    }
    gq_asr_stream_close(stream);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    gq_asr_model *model;
    gq_asr_error error;
    const int code = gq_asr_model_open_memory(data, size, &model, &error);
    if ((code == GQ_ASR_OK) != (model != nullptr) || code != error.code) abort();
    if ((code == GQ_ASR_OK) != (error.message[0] == 0)) abort();
    if (!model) return 0;
    gq_asr_model_verify(model, nullptr);
    use(model, GQ_ASR_INT8, 1);
    use(model, GQ_ASR_EXACT, 2);
    gq_asr_model_close(model);
    return 0;
}
