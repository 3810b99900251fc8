/* From speech to text with one model file: no Python, no other library.
 *
 *     gq_asr_error error;
 *     gq_asr_model *model;
 *     gq_asr_stream *stream;
 *     gq_asr_result best;
 *     gq_asr_model_open("model.gguf", &model, &error);
 *     gq_asr_stream_open(model, NULL, &stream, &error);
 *     while (...) gq_asr_stream_feed(stream, samples, n, &error);
 *     gq_asr_stream_finish(stream, &error);
 *     gq_asr_stream_result(stream, 0, &best, &error);
 *     puts(best.text);
 *     gq_asr_stream_close(stream);
 *     gq_asr_model_close(model);
 *
 * Contract:
 * - Functions that can fail return GQ_ASR_OK or another code, and say why in `error` in
 *   one sentence; `error` may be NULL. None aborts, exits, prints or throws.
 * - A model does not change after it was opened: any threads may use it at once, and it
 *   lives until it and all of its streams are closed. A stream recognizes one utterance
 *   at a time; only one thread at a time may use it.
 * - Model files and samples may come from anywhere: malformed ones are refused. The
 *   caller guarantees that a pointer leads to as much memory as the shape beside it says.
 * - A later version of this interface adds functions and fields at the end of structures
 *   (which carry their size), and keeps what is here as long as GQ_ASR_VERSION_MAJOR is
 *   the same.
 */
#ifndef GQ_ASR_H
#define GQ_ASR_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32) && defined(GQ_ASR_SHARED)
#ifdef GQ_ASR_BUILD
#define GQ_ASR_API __declspec(dllexport)
#else
#define GQ_ASR_API __declspec(dllimport)
#endif
#elif defined(__GNUC__)
#define GQ_ASR_API __attribute__((visibility("default")))
#else
#define GQ_ASR_API
#endif

#define GQ_ASR_VERSION_MAJOR 1
#define GQ_ASR_VERSION_MINOR 0

#ifdef __cplusplus
extern "C" {
#endif

/* --- errors --- */

enum {
    GQ_ASR_OK = 0,
    GQ_ASR_BAD_ARGUMENT = 1, /* an argument is out of range, or a sample not finite */
    GQ_ASR_NO_MEMORY = 2,
    GQ_ASR_CANNOT_READ = 3, /* there is no such file, or the system does not read it */
    GQ_ASR_BAD_MODEL = 4,   /* not a model file, damaged or of a newer version */
    GQ_ASR_BAD_STATE = 5,   /* samples after the end of the utterance */
    GQ_ASR_INTERNAL = 6     /* a fault of the engine */
};

typedef struct {
    int code;
    char message[512]; /* UTF-8, ends with NUL; empty with GQ_ASR_OK */
} gq_asr_error;

/* Version of the library, 256 * major + minor. */
GQ_ASR_API int gq_asr_version(void);

/* --- a model --- */

typedef struct gq_asr_model gq_asr_model;

/* Map a model file. The file must not change while the model is open. */
GQ_ASR_API int gq_asr_model_open(const char *path, gq_asr_model **model,
                                 gq_asr_error *error);

/* The same for a file in memory: data (size), which must stay until the model and its
 * streams are closed. It is used in place if its address is a multiple of 64, and
 * copied otherwise. */
GQ_ASR_API int gq_asr_model_open_memory(const void *data, size_t size,
                                        gq_asr_model **model, gq_asr_error *error);

/* Compare the file with its checksum: reads all of it. */
GQ_ASR_API int gq_asr_model_verify(const gq_asr_model *model, gq_asr_error *error);

/* Close a model. NULL is allowed. */
GQ_ASR_API void gq_asr_model_close(gq_asr_model *model);

/* Samples per second that the model takes. */
GQ_ASR_API int64_t gq_asr_model_sample_rate(const gq_asr_model *model);

/* Whether results come while samples arrive (1), or only when an utterance ends (0). */
GQ_ASR_API int gq_asr_model_streams(const gq_asr_model *model);

/* Number of tokens, and a token (UTF-8) or NULL where the number is out of range. */
GQ_ASR_API int64_t gq_asr_model_tokens(const gq_asr_model *model);
GQ_ASR_API const char *gq_asr_model_token(const gq_asr_model *model, int64_t number);

/* What the file says of itself, such as "conformer" for "encoder.type"; docs/format.md
 * lists the keys. Texts only; NULL where there is none. */
GQ_ASR_API const char *gq_asr_model_text(const gq_asr_model *model, const char *key);

/* --- a stream: one utterance after the other --- */

enum { GQ_ASR_EXACT = 0, GQ_ASR_INT8 = 1 };

typedef struct {
    uint32_t size;  /* sizeof(gq_asr_options) */
    int32_t mode;   /* GQ_ASR_EXACT, or GQ_ASR_INT8: activations rounded to 8 bits */
    int32_t threads; /* 1 to 256 */
    int32_t beam;   /* hypotheses of the search, 1 to 100; 1 is the greedy search */
    int32_t nbest;  /* results to keep, 1 to 100 */
} gq_asr_options;

/* int8, one thread, greedy search, one result. */
GQ_ASR_API void gq_asr_default_options(gq_asr_options *options);

typedef struct gq_asr_stream gq_asr_stream;

/* Open a stream; options may be NULL for the default ones. */
GQ_ASR_API int gq_asr_stream_open(const gq_asr_model *model,
                                  const gq_asr_options *options, gq_asr_stream **stream,
                                  gq_asr_error *error);

/* Recognize the next samples (n), mono, at the model's rate. float: full scale is -1 to
 * 1; int16: -32768 to 32767. After an error the utterance is lost: reset the stream. */
GQ_ASR_API int gq_asr_stream_feed(gq_asr_stream *stream, const float *samples, int64_t n,
                                  gq_asr_error *error);
GQ_ASR_API int gq_asr_stream_feed_int16(gq_asr_stream *stream, const int16_t *samples,
                                        int64_t n, gq_asr_error *error);

/* The utterance ends here: complete the results. */
GQ_ASR_API int gq_asr_stream_finish(gq_asr_stream *stream, gq_asr_error *error);

/* Begin a new utterance, whatever the state. */
GQ_ASR_API int gq_asr_stream_reset(gq_asr_stream *stream, gq_asr_error *error);

typedef struct {
    const char *text;     /* UTF-8 */
    double score;         /* log-probability of the tokens */
    int64_t tokens;
    const int32_t *token; /* (tokens) numbers, without blank */
    const float *time;    /* (tokens) seconds: start of the frame that each came with */
} gq_asr_result;

/* Number of results so far: at most `nbest`, at least 1. */
GQ_ASR_API int64_t gq_asr_stream_results(gq_asr_stream *stream);

/* Result number `rank`, 0 the best, of all samples so far: a partial one before
 * gq_asr_stream_finish, then the final one. Its pointers are valid until the next call
 * for the same stream. */
GQ_ASR_API int gq_asr_stream_result(gq_asr_stream *stream, int64_t rank,
                                    gq_asr_result *result, gq_asr_error *error);

/* Close a stream. NULL is allowed. */
GQ_ASR_API void gq_asr_stream_close(gq_asr_stream *stream);

#ifdef __cplusplus
}
#endif

#endif
