#include "program/options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

const char *const USAGE =
    "usage: gq-asr [OPTION ...] MODEL [WAV ...]\n"
    "       gq-asr [OPTION ...] --raw s16 MODEL < samples\n"
    "\n"
    "Turn speech into text with a model file of espnet-gq export.\n"
    "\n"
    "  --format FORMAT   text: the text of each file, one per line (default);\n"
    "                    json: one object per file; espnet: 'NAME text' lines\n"
    "  --mode MODE       int8 (default) or exact\n"
    "  --threads N       threads to compute with (1)\n"
    "  --beam N          hypotheses of the search (1: the greedy search)\n"
    "  --nbest N         results per file, with --format json (1)\n"
    "  --raw FORMAT      read mono samples at the model's rate from standard input:\n"
    "                    s16 or f32, in the machine's byte order\n"
    "  --chunk-ms N      read and recognize that much at a time (160)\n"
    "  --partial         also print each change of the result while samples arrive\n"
    "  --timing          print real-time factors and latencies to standard error: from\n"
    "                    the end of speech to its result, chunks arriving as spoken\n"
    "  --verify          compare the model file with its checksum first\n"
    "  --version, --help\n"
    "\n"
    "Exit status: 0, 1 where a file was not recognized, 2 where the model or the\n"
    "command line is wrong.\n";

namespace {

struct Choice {
    const char *name;
    int value;
};

/* Finds a choice by its name; returns what is wrong. */
template <size_t N>
std::string choose(const char *option, const char *text, const Choice (&choices)[N],
                   int *value) {
    std::string allowed;
    for (const Choice &one : choices) {
        if (!strcmp(one.name, text)) {
            *value = one.value;
            return "";
        }
        allowed += std::string(allowed.empty() ? "" : ", ") + one.name;
    }
    return std::string(option) + " is '" + text + "'; allowed: " + allowed;
}

std::string whole(const char *option, const char *text, long most, int64_t *value) {
    char *end;
    errno = 0;
    long found = strtol(text, &end, 10);
    if (errno || end == text || *end || found < 1 || found > most)
        return std::string(option) + " is '" + text + "'; allowed: 1 to " +
               std::to_string(most);
    *value = found;
    return "";
}

const Choice MODES[] = {{"int8", GQ_ASR_INT8}, {"exact", GQ_ASR_EXACT}};
const Choice FORMATS[] = {{"text", Options::TEXT},
                          {"json", Options::JSON},
                          {"espnet", Options::ESPNET}};
const Choice RAWS[] = {{"s16", Options::S16}, {"f32", Options::F32}};

/* An option that takes a value. */
std::string set(const std::string &option, const char *text, Options *o) {
    int chosen = 0;
    int64_t number = 0;
    std::string wrong;
    const char *name = option.c_str();
    if (option == "--format") {
        wrong = choose(name, text, FORMATS, &chosen);
        o->format = (Options::Format)chosen;
    } else if (option == "--mode") {
        wrong = choose(name, text, MODES, &chosen);
        o->engine.mode = chosen;
    } else if (option == "--raw") {
        wrong = choose(name, text, RAWS, &chosen);
        o->raw = (Options::Raw)chosen;
    } else if (option == "--threads") {
        wrong = whole(name, text, 256, &number);
        o->engine.threads = (int32_t)number;
    } else if (option == "--beam") {
        wrong = whole(name, text, 100, &number);
        o->engine.beam = (int32_t)number;
    } else if (option == "--nbest") {
        wrong = whole(name, text, 100, &number);
        o->engine.nbest = (int32_t)number;
    } else if (option == "--chunk-ms") {
        wrong = whole(name, text, 3600000, &o->chunk_ms);
    } else {
        wrong = "there is no option " + option;
    }
    return wrong;
}

}  // namespace

std::string parse(int argc, char **argv, Options *o) {
    const struct {
        const char *name;
        bool *value;
    } flags[] = {{"--partial", &o->partial}, {"--timing", &o->timing},
                 {"--verify", &o->verify},   {"--help", &o->help},
                 {"-h", &o->help},           {"--version", &o->version}};
    gq_asr_default_options(&o->engine);
    bool model = false, only_names = false;
    for (int i = 1; i < argc; ++i) {
        const std::string word = argv[i];
        bool *flag = nullptr;
        for (const auto &one : flags)
            if (word == one.name) flag = one.value;
        if (only_names || word.size() < 2 || word[0] != '-') {
            if (model) o->files.push_back(word);
            if (!model) o->model = word;
            model = true;
        } else if (word == "--") {
            only_names = true;
        } else if (flag) {
            *flag = true;
        } else {
            const size_t equals = word.find('=');
            const std::string name = word.substr(0, equals);
            if (equals == std::string::npos && i + 1 == argc)
                return name + " needs a value, or is no option";
            std::string wrong =
                set(name, equals == std::string::npos ? argv[++i]
                                                      : word.c_str() + equals + 1, o);
            if (!wrong.empty()) return wrong;
        }
    }
    if (o->help || o->version) return "";
    if (!model) return "no model is given";
    if (o->raw != Options::NONE && !o->files.empty())
        return "--raw reads standard input; allowed: either it or files";
    if (o->raw == Options::NONE && o->files.empty() && !o->verify)
        return "no WAV file is given";
    return "";
}
