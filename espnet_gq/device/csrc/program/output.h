/* What gq-asr prints of a result. */
#ifndef GQ_ASR_OUTPUT_H
#define GQ_ASR_OUTPUT_H

#include <string>

#include "gq_asr.h"
#include "program/options.h"

/* Print the results of a stream. name: the file, or "-". */
void print_results(const Options &options, const gq_asr_model *model,
                   gq_asr_stream *stream, const std::string &name, bool partial);

/* Print one line to standard error. */
void complain(const std::string &message);

#endif
