#include "program/output.h"

#include <math.h>
#include <stdio.h>

namespace {

std::string quoted(const char *text) {
    std::string made = "\"";
    for (const char *c = text; *c; ++c) {
        char code[8];
        if (*c == '"' || *c == '\\') {
            made += '\\';
            made += *c;
        } else if ((unsigned char)*c < 0x20) {
            snprintf(code, sizeof code, "\\u%04x", (unsigned)*c);
            made += code;
        } else {
            made += *c;
        }
    }
    return made + '"';
}

std::string number(double value, const char *format) {
    char text[64];
    snprintf(text, sizeof text, format, value);
    return isfinite(value) ? text : "null"; /* JSON has no others */
}

std::string fields(const gq_asr_model *model, const gq_asr_result &result) {
    std::string tokens, numbers, times;
    for (int64_t i = 0; i < result.tokens; ++i) {
        const char *comma = i ? ", " : "";
        tokens += comma + quoted(gq_asr_model_token(model, result.token[i]));
        numbers += comma + std::to_string(result.token[i]);
        times += comma + number(result.time[i], "%.3f");
    }
    return "\"text\": " + quoted(result.text) +
           ", \"score\": " + number(result.score, "%.6f") + ", \"tokens\": [" + tokens +
           "], \"token_int\": [" + numbers + "], \"times\": [" + times + "]";
}

/* The name of a file without folders and suffix. */
std::string stem(const std::string &path) {
    const size_t slash = path.find_last_of("/\\");
    const std::string name = slash == std::string::npos ? path : path.substr(slash + 1);
    const size_t dot = name.rfind('.');
    return dot == std::string::npos || dot == 0 ? name : name.substr(0, dot);
}

}  // namespace

void print_results(const Options &options, const gq_asr_model *model,
                   gq_asr_stream *stream, const std::string &name, bool partial) {
    gq_asr_result result;
    if (gq_asr_stream_result(stream, 0, &result, nullptr) != GQ_ASR_OK) return;
    std::string line;
    if (options.format == Options::JSON) {
        line = "{\"file\": " + quoted(name.c_str()) +
               ", \"final\": " + (partial ? "false" : "true") + ", " +
               fields(model, result);
        const int64_t count = partial ? 1 : gq_asr_stream_results(stream);
        for (int64_t i = 1; i < count; ++i) {
            gq_asr_stream_result(stream, i, &result, nullptr);
            line += (i > 1 ? ", {" : ", \"others\": [{") + fields(model, result) + "}";
        }
        line += count > 1 ? "]}" : "}";
    } else if (options.format == Options::ESPNET) {
        line = stem(name) + " " + result.text;
    } else {
        line = result.text;
    }
    printf("%s%s\n", partial && options.format != Options::JSON ? "... " : "",
           line.c_str());
    fflush(stdout);
}

void complain(const std::string &message) {
    fprintf(stderr, "gq-asr: %s\n", message.c_str());
}
