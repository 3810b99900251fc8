/* The recognition of one utterance after the other. */
#ifndef GQ_ASR_STREAM_H
#define GQ_ASR_STREAM_H

#include <memory>
#include <string>
#include <vector>

#include "model.h"

namespace asr {

class Stream {
  public:
    Stream(std::shared_ptr<const Model> model, const gq_asr_options &options);
    Stream(const Stream &) = delete; /* its parts refer to each other */
    Stream &operator=(const Stream &) = delete;

    void feed(const float *samples, int64_t n, Status &status);
    void feed(const int16_t *samples, int64_t n, Status &status);
    void finish(Status &status);
    void reset(Status &status);

    int64_t results();
    void result(int64_t rank, gq_asr_result *result, Status &status);

  private:
    struct Result {
        Hypothesis hypothesis;
        std::string text;
        std::vector<float> times;
    };
    void block(const float *samples, int64_t n, Status &status);
    void encoded(Status &status);
    void update();
    bool usable(Status &status) const;

    std::shared_ptr<const Model> model_;
    Compute compute_;
    int64_t beam_, nbest_;
    int64_t block_; /* samples that are recognized at once */
    std::unique_ptr<FeatureStream> features_;
    std::unique_ptr<EncoderStream> encoder_;
    std::unique_ptr<Search> search_;
    Frames feature_frames_, encoder_frames_;
    int64_t samples_ = 0; /* of the utterance so far */
    bool finished_ = false, lost_ = false, current_ = false;
    std::vector<Result> results_;
};

}  // namespace asr

#endif
