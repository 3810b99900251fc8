/* Fuzz target: any bytes as a model file, and speech for what is accepted.
 *
 * A refusal has a sentence; a model that was opened recognizes noise, in parts, in either
 * mode, by either search. The checksum does not bar the way: it is compared in some cases,
 * whatever the result.
 */
#include <stdlib.h>
#include <string.h>

#include "gq_asr.h"

namespace {

/* Few: the inputs count, not their length. The beam search may expand 2,000 hypotheses in
 * each frame. */
enum { SAMPLES = 220, SAMPLES_BEAM = 60, CHUNK = 40 };

void require(bool right) {
    if (!right) abort();
}

/* A failure has a code and one sentence of valid length. */
void check(int code, const gq_asr_error &error) {
    require(code == error.code);
    const size_t length = strnlen(error.message, sizeof error.message);
    require(length < sizeof error.message && (code == GQ_ASR_OK) == (length == 0));
    require(!strchr(error.message, '\n'));
    require(code != GQ_ASR_INTERNAL);
}

void read_results(gq_asr_stream *stream, const gq_asr_model *model) {
    gq_asr_result result;
    gq_asr_error error;
    const int64_t count = gq_asr_stream_results(stream);
    for (int64_t rank = 0; rank < count; ++rank) {
        check(gq_asr_stream_result(stream, rank, &result, &error), error);
        require(strlen(result.text) < ((size_t)1 << 30));
        for (int64_t i = 0; i < result.tokens; ++i)
            require(gq_asr_model_token(model, result.token[i]) && result.time[i] >= 0);
    }
    require(gq_asr_stream_result(stream, count, &result, &error) != GQ_ASR_OK);
}

void recognize(const gq_asr_model *model, int mode, int beam) {
    gq_asr_options options;
    gq_asr_default_options(&options);
    options.mode = mode;
    options.beam = options.nbest = beam;
    gq_asr_stream *stream;
    gq_asr_error error;
    const int opened = gq_asr_stream_open(model, &options, &stream, &error);
    check(opened, error);
    if (opened != GQ_ASR_OK) return;
    float samples[SAMPLES];
    uint32_t noise = 1;
    for (float &sample : samples) {
        noise = noise * 1664525u + 1013904223u;
        sample = (float)(int32_t)noise / 4294967296.0f;
    }
    for (int utterance = 0; utterance < 2; ++utterance) {
        /* The second is shorter than a frame. */
        const int n = utterance ? 3 : beam > 1 ? SAMPLES_BEAM : SAMPLES;
        for (int i = 0; i < n; i += CHUNK) {
            const int size = n - i < CHUNK ? n - i : CHUNK;
            check(gq_asr_stream_feed(stream, samples + i, size, &error), error);
            read_results(stream, model);
        }
        check(gq_asr_stream_finish(stream, &error), error);
        read_results(stream, model);
        check(gq_asr_stream_reset(stream, &error), error);
    }
    gq_asr_stream_close(stream);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    /* Aligned, so that it is used in place and ends where the file ends. */
    void *copy = nullptr;
    if (posix_memalign(&copy, 64, size ? size : 1)) return 0;
    if (size) memcpy(copy, data, size);
    gq_asr_model *model;
    gq_asr_error error;
    const int opened = gq_asr_model_open_memory(copy, size, &model, &error);
    check(opened, error);
    require((model != nullptr) == (opened == GQ_ASR_OK));
    if (model) {
        require(gq_asr_model_sample_rate(model) > 0);
        gq_asr_model_streams(model);
        gq_asr_model_text(model, "encoder.type");
        if (size % 16 < 2) check(gq_asr_model_verify(model, &error), error);
        const int mode = size % 2 ? GQ_ASR_INT8 : GQ_ASR_EXACT;
        recognize(model, mode, size % 4 < 2 ? 1 : 3);
    }
    gq_asr_model_close(model);
    free(copy);
    return 0;
}
