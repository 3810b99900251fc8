/* An encoder: features in, encoder frames out, as far as they are known.
 *
 * Adding one: a file encoders/NAME.cpp with a function `load_NAME`, its line in
 * encoders/table.cpp, and what writes its settings and weights in
 * espnet_gq/espnet/exporting/encoders.py.
 */
#ifndef GQ_ASR_ENCODER_H
#define GQ_ASR_ENCODER_H

#include <memory>

#include "file/loader.h"
#include "frames.h"
#include "layers/matrix.h"

namespace asr {

/* The encoder of one utterance. Refers to its Encoder and to the stream's Compute. */
class EncoderStream {
  public:
    virtual ~EncoderStream() = default;
    /* Read features x (n, inputs); append the frames that they complete. */
    virtual void push(const float *x, int64_t n, Frames &out) = 0;
    /* The utterance has `samples` samples. Return how many zeros are to follow them: the
     * features of these are the last ones that push() gets. Called once. */
    virtual int64_t end(int64_t samples) {
        (void)samples;
        return 0;
    }
    /* The features end here: append the remaining frames. Called once. */
    virtual void finish(Frames &out) = 0;
};

/* Its weights; does not change. */
class Encoder {
  public:
    virtual ~Encoder() = default;
    virtual std::unique_ptr<EncoderStream> start(const Compute &compute) const = 0;

    int64_t inputs = 0;   /* features per frame */
    int64_t outputs = 0;  /* values per encoder frame */
    int64_t stride = 1;   /* features from one encoder frame to the next */
    bool streams = false; /* whether frames come before the end */
};

/* The encoder of a model file, for features of `inputs` values; nullptr after a failure,
 * which is in the loader's status. */
std::unique_ptr<Encoder> load_encoder(Loader &loader, int64_t inputs);

}  // namespace asr

#endif
