/* Eight streams of one model in four threads give the results of one stream alone; for
 * ThreadSanitizer. Arguments: model files. Exits with 1 where a result differs. */
#include <math.h>
#include <stdio.h>

#include <string>
#include <thread>
#include <vector>

#include "gq_asr.h"

namespace {

enum { STREAMS = 8, THREADS = 4, SAMPLES = 4000, CHUNK = 250 };

std::vector<float> speech(int seed) {
    std::vector<float> samples(SAMPLES);
    for (int i = 0; i < SAMPLES; ++i)
        samples[(size_t)i] = sinf(0.02f * (float)(i * (1 + seed + i / 500)));
    return samples;
}

std::string result_of(gq_asr_stream *stream) {
    std::string found;
    gq_asr_result result;
    for (int64_t i = 0; i < gq_asr_stream_results(stream); ++i)
        if (gq_asr_stream_result(stream, i, &result, nullptr) == GQ_ASR_OK)
            found += std::string(result.text) + " " + std::to_string(result.score) + "\n";
    return found;
}

/* Recognize the utterances `first` on, `step` apart, in turns. */
void work(const gq_asr_model *model, int first, int step, int threads,
          std::vector<std::string> *found) {
    gq_asr_options options;
    gq_asr_default_options(&options);
    options.threads = threads;
    std::vector<gq_asr_stream *> streams;
    for (int i = first; i < STREAMS; i += step) {
        options.beam = options.nbest = 1 + i % 3;
        gq_asr_stream *stream;
        if (gq_asr_stream_open(model, &options, &stream, nullptr) != GQ_ASR_OK) return;
        streams.push_back(stream);
    }
    for (int at = 0; at < SAMPLES; at += CHUNK)
        for (size_t k = 0; k < streams.size(); ++k) {
            const std::vector<float> samples = speech(first + (int)k * step);
            gq_asr_stream_feed(streams[k], samples.data() + at, CHUNK, nullptr);
            result_of(streams[k]);
        }
    for (size_t k = 0; k < streams.size(); ++k) {
        gq_asr_stream_finish(streams[k], nullptr);
        (*found)[(size_t)first + k * (size_t)step] = result_of(streams[k]);
        gq_asr_stream_close(streams[k]);
    }
}

}  // namespace

int main(int argc, char **argv) {
    for (int i = 1; i < argc; ++i) {
        gq_asr_model *model;
        gq_asr_error error;
        if (gq_asr_model_open(argv[i], &model, &error) != GQ_ASR_OK) {
            fprintf(stderr, "%s: %s\n", argv[i], error.message);
            return 1;
        }
        std::vector<std::string> alone(STREAMS), found(STREAMS);
        work(model, 0, 1, 1, &alone);
        std::vector<std::thread> threads;
        for (int k = 0; k < THREADS; ++k)
            threads.emplace_back(work, model, k, (int)THREADS, 1 + k % 2, &found);
        for (std::thread &thread : threads) thread.join();
        gq_asr_model_close(model);
        if (found != alone || alone[0].empty()) {
            fprintf(stderr, "%s: the results of threads differ\n", argv[i]);
            return 1;
        }
    }
    return 0;
}
