/* A recognizer: a model file and the components that it describes. Does not change. */
#ifndef GQ_ASR_MODEL_H
#define GQ_ASR_MODEL_H

#include <memory>
#include <string>

#include "encoders/encoder.h"
#include "features/features.h"
#include "file/gguf.h"
#include "file/mapping.h"
#include "search/ctc.h"
#include "search/search.h"
#include "vocabulary.h"

namespace asr {

struct Model {
    Mapping bytes;
    Gguf file;
    std::unique_ptr<Features> features;
    std::unique_ptr<Vocabulary> vocabulary;
    std::unique_ptr<Encoder> encoder;
    /* One of them: */
    std::unique_ptr<Transducer> transducer;
    std::unique_ptr<Ctc> ctc;

    /* Build the components of the file that `bytes` has. */
    void load(Status &status);

    /* Compare the file with its checksum. */
    void verify(Status &status) const;

    /* Seconds from one encoder frame to the next. */
    double frame_seconds() const {
        return (double)(encoder->stride * features->hop) / (double)features->rate;
    }

    /* A search for a new utterance. */
    std::unique_ptr<Search> search(const Compute &compute, int64_t beam) const;
};

}  // namespace asr

#endif
