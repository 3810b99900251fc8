/* Many streams of one model in several threads: the results of one stream alone, no data
 * race (under ThreadSanitizer) and no growing memory.
 *
 *     stress MODEL THREADS STREAMS UTTERANCES WAV...
 *
 * Each thread feeds STREAMS / THREADS streams in turn, a chunk each, until all have
 * recognized UTTERANCES together. Odd streams compute in two threads, every second pair
 * exactly, every third by the beam search. Prints the growth of resident memory after the
 * first tenth of the utterances; exits with 1 if a result differs.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "gq_asr.h"
#include "program/wav.h"

namespace {

using Samples = std::vector<float>;

void require(bool right, const char *what) {
    if (right) return;
    fprintf(stderr, "stress: %s\n", what);
    exit(2);
}

long resident_kb() {
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    require(file && fscanf(file, "%*s %ld", &pages) == 1, "no /proc/self/statm");
    fclose(file);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

gq_asr_options options_of(int stream) {
    gq_asr_options options;
    gq_asr_default_options(&options);
    options.threads = 1 + stream % 2;
    options.mode = stream / 2 % 2 ? GQ_ASR_EXACT : GQ_ASR_INT8;
    options.beam = stream % 3 ? 1 : 3;
    return options;
}

gq_asr_stream *open_stream(const gq_asr_model *model, int number) {
    gq_asr_stream *stream;
    const gq_asr_options options = options_of(number);
    require(gq_asr_stream_open(model, &options, &stream, nullptr) == GQ_ASR_OK,
            "a stream was not opened");
    return stream;
}

void feed(gq_asr_stream *stream, const Samples &samples, size_t from, size_t n) {
    n = std::min(n, samples.size() - from);
    require(gq_asr_stream_feed(stream, samples.data() + from, (int64_t)n, nullptr) ==
                GQ_ASR_OK, "samples were refused");
}

std::string finished(gq_asr_stream *stream) {
    gq_asr_result result;
    require(gq_asr_stream_finish(stream, nullptr) == GQ_ASR_OK &&
                gq_asr_stream_result(stream, 0, &result, nullptr) == GQ_ASR_OK,
            "an utterance was not finished");
    std::string found = std::to_string(result.score) + " " + result.text;
    gq_asr_stream_reset(stream, nullptr);
    return found;
}

struct Shared {
    const gq_asr_model *model;
    int streams, threads, utterances;
    std::vector<Samples> speech;
    std::vector<std::vector<std::string>> expected; /* of each stream's options */
    std::atomic<int> begun{0}, done{0}, wrong{0};
    std::atomic<long> warm_kb{0};
};

void work(Shared *s, int thread) {
    struct Running {
        gq_asr_stream *stream;
        int number, utterance;
        size_t at;
    };
    const size_t chunk = 1280;
    std::vector<Running> all;
    for (int i = thread; i < s->streams; i += s->threads)
        all.push_back({open_stream(s->model, i), i, -1, 0});
    for (bool busy = true; busy;) {
        busy = false;
        for (Running &one : all) {
            if (one.utterance < 0) {
                if (s->begun.fetch_add(1) >= s->utterances) continue;
                one.utterance = s->begun.load() % (int)s->speech.size();
                one.at = 0;
            }
            busy = true;
            const Samples &samples = s->speech[(size_t)one.utterance];
            feed(one.stream, samples, one.at, chunk);
            one.at += chunk;
            if (one.at < samples.size()) continue;
            const std::vector<std::string> &expected = s->expected[(size_t)one.number];
            if (finished(one.stream) != expected[(size_t)one.utterance]) ++s->wrong;
            one.utterance = -1;
            if (++s->done == s->utterances / 10) s->warm_kb = resident_kb();
        }
    }
    for (Running &one : all) gq_asr_stream_close(one.stream);
}

}  // namespace

int main(int argc, char **argv) {
    require(argc > 5, "usage: stress MODEL THREADS STREAMS UTTERANCES WAV...");
    gq_asr_model *model;
    require(gq_asr_model_open(argv[1], &model, nullptr) == GQ_ASR_OK, "no such model");
    Shared s;
    s.model = model;
    s.threads = atoi(argv[2]);
    s.streams = atoi(argv[3]);
    s.utterances = atoi(argv[4]);
    require(s.threads > 0 && s.streams >= s.threads && s.utterances >= 10, "bad numbers");
    for (int i = 5; i < argc; ++i) {
        Wav wav;
        s.speech.emplace_back();
        require(wav.open(argv[i]).empty(), "no such WAV file");
        wav.read(1 << 24, &s.speech.back());
        require(!s.speech.back().empty(), "an empty WAV file");
    }
    for (int i = 0; i < s.streams; ++i) {
        gq_asr_stream *stream = open_stream(model, i);
        s.expected.emplace_back();
        for (const Samples &samples : s.speech) {
            for (size_t at = 0; at < samples.size(); at += 1280)
                feed(stream, samples, at, 1280);
            s.expected.back().push_back(finished(stream));
        }
        gq_asr_stream_close(stream);
    }
    std::vector<std::thread> threads;
    for (int i = 0; i < s.threads; ++i) threads.emplace_back(work, &s, i);
    for (std::thread &thread : threads) thread.join();
    printf("%d utterances, %d wrong, resident memory %+ld kB\n", s.done.load(),
           s.wrong.load(), resident_kb() - s.warm_kb.load());
    gq_asr_model_close(model);
    return s.wrong.load() != 0;
}
