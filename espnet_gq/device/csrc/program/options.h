/* The command line of gq-asr. */
#ifndef GQ_ASR_OPTIONS_H
#define GQ_ASR_OPTIONS_H

#include <stdint.h>

#include <string>
#include <vector>

#include "gq_asr.h"

struct Options {
    enum Format { TEXT, JSON, ESPNET };
    enum Raw { NONE, S16, F32 };

    std::string model;
    std::vector<std::string> files;
    gq_asr_options engine;
    Format format = TEXT;
    Raw raw = NONE;
    int64_t chunk_ms = 160;
    bool partial = false, timing = false, verify = false, help = false, version = false;
};

extern const char *const USAGE;

/* Returns what is wrong, empty if nothing is. */
std::string parse(int argc, char **argv, Options *options);

#endif
