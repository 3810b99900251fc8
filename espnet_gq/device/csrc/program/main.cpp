/* gq-asr: WAV files or raw samples to text. */
#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

#if defined(_WIN32)
#include <fcntl.h>
#include <io.h>
#endif

#include "gq_asr.h"
#include "program/options.h"
#include "program/output.h"
#include "program/wav.h"

/* The shared library of the Python package has the program as a function. */
#if defined(GQ_ASR_MAIN)
extern "C" GQ_ASR_API int GQ_ASR_MAIN(int argc, char **argv);
#else
#define GQ_ASR_MAIN main
#endif

namespace {

double now() {
    using namespace std::chrono;
    return duration<double>(steady_clock::now().time_since_epoch()).count();
}

/* One utterance after the other on one stream. */
class Program {
  public:
    Program(const Options &options, const gq_asr_model *model, gq_asr_stream *stream)
        : options_(options),
          model_(model),
          stream_(stream),
          rate_(gq_asr_model_sample_rate(model)),
          chunk_(std::max<int64_t>(1, options.chunk_ms * rate_ / 1000)) {}

    /* Return what went wrong, empty if nothing did. */
    std::string file(const std::string &path) {
        Wav wav;
        std::string wrong = wav.open(path.c_str());
        if (!wrong.empty()) return wrong;
        if (wav.rate != rate_)
            return "it has " + std::to_string(wav.rate) +
                   " samples per second; allowed: " + std::to_string(rate_) +
                   ", those of the model";
        if (wav.channels != 1)
            return "it has " + std::to_string(wav.channels) + " channels; allowed: 1";
        begin(path);
        for (;;) {
            wav.read(chunk_, &samples_);
            if (samples_.empty()) break;
            if (!feed()) return error_.message;
        }
        wrong = wav.end();
        return wrong.empty() ? finish() : wrong;
    }

    std::string raw() {
#if defined(_WIN32)
        _setmode(_fileno(stdin), _O_BINARY);
#endif
        begin("-");
        const bool is_float = options_.raw == Options::F32;
        const size_t width = is_float ? sizeof(float) : sizeof(int16_t);
        std::vector<uint8_t> bytes((size_t)chunk_ * width);
        size_t got;
        do {
            got = fread(bytes.data(), 1, bytes.size(), stdin);
            samples_.resize(got / width);
            for (size_t i = 0; i < samples_.size(); ++i) {
                int16_t whole = 0;
                void *to = is_float ? (void *)&samples_[i] : (void *)&whole;
                memcpy(to, &bytes[i * width], width);
                if (!is_float) samples_[i] = (float)whole / 32768.0f;
            }
            if (!samples_.empty() && !feed()) return error_.message;
        } while (got == bytes.size());
        if (got % width) return "it ends within a sample";
        return ferror(stdin) ? "it cannot be read" : finish();
    }

  private:
    void begin(const std::string &name) {
        name_ = name;
        seen_ = 0;
        spent_ = clock_ = 0.0;
        last_.clear();
        gq_asr_stream_reset(stream_, nullptr);
    }

    bool feed() {
        const double start = now();
        const int64_t n = (int64_t)samples_.size();
        if (gq_asr_stream_feed(stream_, samples_.data(), n, &error_) != GQ_ASR_OK)
            return false;
        seen_ += n;
        took(now() - start);
        if (options_.partial) partial();
        return true;
    }

    /* Samples are taken as if they came live: those so far were processed in `seconds`,
     * which began when they had been spoken or when the ones before were done. */
    void took(double seconds) {
        spent_ += seconds;
        clock_ = std::max(clock_, spoken()) + seconds;
    }

    double spoken() const { return (double)seen_ / (double)rate_; }

    void partial() {
        gq_asr_result result;
        if (gq_asr_stream_result(stream_, 0, &result, nullptr) != GQ_ASR_OK ||
            last_ == result.text)
            return;
        last_ = result.text;
        print_results(options_, model_, stream_, name_, true);
    }

    std::string finish() {
        const double start = now();
        if (gq_asr_stream_finish(stream_, &error_) != GQ_ASR_OK) return error_.message;
        took(now() - start);
        print_results(options_, model_, stream_, name_, false);
        if (options_.timing) {
            const double seconds = spoken();
            fprintf(stderr,
                    "gq-asr: %s: %.2f s of speech in %.3f s (real-time factor %.3f), "
                    "result %.2f ms after its end\n",
                    name_.c_str(), seconds, spent_, seconds > 0 ? spent_ / seconds : 0.0,
                    1000 * (clock_ - seconds));
        }
        return "";
    }

    const Options &options_;
    const gq_asr_model *model_;
    gq_asr_stream *stream_;
    int64_t rate_, chunk_;
    std::string name_, last_;
    std::vector<float> samples_;
    int64_t seen_ = 0;
    double spent_ = 0.0; /* seconds of processing */
    double clock_ = 0.0; /* seconds from the start of speech to the end of processing */
    gq_asr_error error_;
};

int run(const Options &options, const gq_asr_model *model) {
    gq_asr_error error;
    gq_asr_stream *stream;
    if (options.verify && gq_asr_model_verify(model, &error) != GQ_ASR_OK) {
        complain(options.model + ": " + error.message);
        return 2;
    }
    if (gq_asr_stream_open(model, &options.engine, &stream, &error) != GQ_ASR_OK) {
        complain(error.message);
        return 2;
    }
    Program program(options, model, stream);
    int status = 0;
    auto report = [&](const std::string &name, const std::string &wrong) {
        if (wrong.empty()) return;
        complain(name + ": " + wrong);
        status = 1;
    };
    if (options.raw != Options::NONE) report("standard input", program.raw());
    for (const std::string &path : options.files) report(path, program.file(path));
    gq_asr_stream_close(stream);
    if (fflush(stdout) != 0 || ferror(stdout))
        report("standard output", "it cannot be written");
    return status;
}

}  // namespace

int GQ_ASR_MAIN(int argc, char **argv) {
    Options options;
    const std::string wrong = parse(argc, argv, &options);
    if (!wrong.empty()) {
        complain(wrong + "; see gq-asr --help");
        return 2;
    }
    if (options.help) {
        fputs(USAGE, stdout);
        return 0;
    }
    if (options.version) {
        printf("gq-asr %d.%d\n", gq_asr_version() / 256, gq_asr_version() % 256);
        return 0;
    }
    const double start = now();
    gq_asr_model *model;
    gq_asr_error error;
    if (gq_asr_model_open(options.model.c_str(), &model, &error) != GQ_ASR_OK) {
        const std::string message = error.message;
        const bool named = message.compare(0, options.model.size(), options.model) == 0;
        complain(named ? message : options.model + ": " + message);
        return 2;
    }
    if (options.timing)
        fprintf(stderr, "gq-asr: %s: loaded in %.1f ms\n", options.model.c_str(),
                1000 * (now() - start));
    const int status = run(options, model);
    gq_asr_model_close(model);
    return status;
}
