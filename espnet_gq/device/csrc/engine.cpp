/* The C interface: checks arguments, and turns every failure into a code. */
#include <string.h>

#include <map>
#include <new>

#include "gq_asr.h"
#include "stream.h"

using namespace asr;

struct gq_asr_model {
    std::shared_ptr<Model> model;
    std::map<std::string, std::string> texts; /* with a NUL at the end */
};

struct gq_asr_stream {
    Stream stream;
};

namespace {

int done(const Status &status, gq_asr_error *error) {
    if (error) {
        error->code = status.code;
        memcpy(error->message, status.message, sizeof error->message);
    }
    return status.code;
}

/* Run f(status); what the standard library throws becomes a code. */
template <class F>
int guarded(gq_asr_error *error, F f) {
    Status status;
#if defined(__cpp_exceptions)
    try {
        f(status);
    } catch (const std::bad_alloc &) {
        status = Status();
        status.fail(GQ_ASR_NO_MEMORY, "there is not enough memory");
    } catch (...) {
        status = Status();
        status.fail(GQ_ASR_INTERNAL, "the engine failed");
    }
#else
    f(status);
#endif
    return done(status, error);
}

bool given(const void *pointer, const char *name, Status &status) {
    if (!pointer) status.fail(GQ_ASR_BAD_ARGUMENT, "%s is NULL", name);
    return pointer != nullptr;
}

void in_range(int64_t value, int64_t least, int64_t most, const char *name,
              Status &status) {
    if (value < least || value > most)
        status.fail(GQ_ASR_BAD_ARGUMENT, "%s is %lld; allowed: %lld to %lld", name,
                    (long long)value, (long long)least, (long long)most);
}

/* What the options say; fields that a caller's older header lacks are the default. */
gq_asr_options checked(const gq_asr_options *given, Status &status) {
    gq_asr_options options;
    gq_asr_default_options(&options);
    if (!given) return options;
    in_range(given->size, sizeof options, 1 << 16, "options->size", status);
    if (!status.ok()) return options;
    options = *given;
    in_range(options.mode, GQ_ASR_EXACT, GQ_ASR_INT8, "options->mode", status);
    in_range(options.threads, 1, 256, "options->threads", status);
    in_range(options.beam, 1, 100, "options->beam", status);
    in_range(options.nbest, 1, 100, "options->nbest", status);
    return options;
}

template <class F>
int open_model(gq_asr_model **model, gq_asr_error *error, F open) {
    if (model) *model = nullptr;
    return guarded(error, [&](Status &status) {
        if (!given(model, "model", status)) return;
        std::unique_ptr<gq_asr_model> made(new gq_asr_model);
        made->model = std::make_shared<Model>();
        open(made->model->bytes, status);
        if (status.ok()) made->model->load(status);
        if (!status.ok()) return;
        made->texts = made->model->file.texts("gqasr.");
        *model = made.release();
    });
}

}  // namespace

int gq_asr_version(void) { return 256 * GQ_ASR_VERSION_MAJOR + GQ_ASR_VERSION_MINOR; }

int gq_asr_model_open(const char *path, gq_asr_model **model, gq_asr_error *error) {
    return open_model(model, error, [&](Mapping &bytes, Status &status) {
        if (given(path, "path", status)) bytes.open(path, status);
    });
}

int gq_asr_model_open_memory(const void *data, size_t size, gq_asr_model **model,
                             gq_asr_error *error) {
    return open_model(model, error, [&](Mapping &bytes, Status &status) {
        if (given(data, "data", status)) bytes.take(data, size, status);
    });
}

int gq_asr_model_verify(const gq_asr_model *model, gq_asr_error *error) {
    return guarded(error, [&](Status &status) {
        if (given(model, "model", status)) model->model->verify(status);
    });
}

void gq_asr_model_close(gq_asr_model *model) { delete model; }

int64_t gq_asr_model_sample_rate(const gq_asr_model *model) {
    return model ? model->model->features->rate : 0;
}

int gq_asr_model_streams(const gq_asr_model *model) {
    return model && model->model->encoder->streams && !model->model->features->wait();
}

int64_t gq_asr_model_tokens(const gq_asr_model *model) {
    return model ? model->model->vocabulary->size() : 0;
}

const char *gq_asr_model_token(const gq_asr_model *model, int64_t number) {
    if (!model || number < 0 || number >= model->model->vocabulary->size()) return nullptr;
    return model->model->vocabulary->token(number).c_str();
}

const char *gq_asr_model_text(const gq_asr_model *model, const char *key) {
    if (!model || !key) return nullptr;
    const char *text = nullptr;
    guarded(nullptr, [&](Status &) {
        auto found = model->texts.find(key);
        if (found != model->texts.end()) text = found->second.c_str();
    });
    return text;
}

void gq_asr_default_options(gq_asr_options *options) {
    if (!options) return;
    options->size = sizeof *options;
    options->mode = GQ_ASR_INT8;
    options->threads = 1;
    options->beam = 1;
    options->nbest = 1;
}

int gq_asr_stream_open(const gq_asr_model *model, const gq_asr_options *options,
                       gq_asr_stream **stream, gq_asr_error *error) {
    if (stream) *stream = nullptr;
    return guarded(error, [&](Status &status) {
        if (!given(stream, "stream", status) || !given(model, "model", status)) return;
        const gq_asr_options chosen = checked(options, status);
        if (!status.ok()) return;
        std::unique_ptr<gq_asr_stream> made(
            new gq_asr_stream{Stream(model->model, chosen)});
        made->stream.reset(status);
        if (status.ok()) *stream = made.release();
    });
}

int gq_asr_stream_feed(gq_asr_stream *stream, const float *samples, int64_t n,
                       gq_asr_error *error) {
    return guarded(error, [&](Status &status) {
        in_range(n, 0, INT64_MAX / 64, "n", status);
        if (!given(stream, "stream", status)) return;
        if (n > 0 && !given(samples, "samples", status)) return;
        if (status.ok()) stream->stream.feed(samples, n, status);
    });
}

int gq_asr_stream_feed_int16(gq_asr_stream *stream, const int16_t *samples, int64_t n,
                             gq_asr_error *error) {
    return guarded(error, [&](Status &status) {
        in_range(n, 0, INT64_MAX / 64, "n", status);
        if (!given(stream, "stream", status)) return;
        if (n > 0 && !given(samples, "samples", status)) return;
        if (status.ok()) stream->stream.feed(samples, n, status);
    });
}

int gq_asr_stream_finish(gq_asr_stream *stream, gq_asr_error *error) {
    return guarded(error, [&](Status &status) {
        if (given(stream, "stream", status)) stream->stream.finish(status);
    });
}

int gq_asr_stream_reset(gq_asr_stream *stream, gq_asr_error *error) {
    return guarded(error, [&](Status &status) {
        if (given(stream, "stream", status)) stream->stream.reset(status);
    });
}

int64_t gq_asr_stream_results(gq_asr_stream *stream) {
    int64_t count = 0;
    guarded(nullptr, [&](Status &) {
        if (stream) count = stream->stream.results();
    });
    return count;
}

int gq_asr_stream_result(gq_asr_stream *stream, int64_t rank, gq_asr_result *result,
                         gq_asr_error *error) {
    return guarded(error, [&](Status &status) {
        if (given(stream, "stream", status) && given(result, "result", status))
            stream->stream.result(rank, result, status);
    });
}

void gq_asr_stream_close(gq_asr_stream *stream) { delete stream; }
