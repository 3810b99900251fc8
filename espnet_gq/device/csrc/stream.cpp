#include "stream.h"

#include <math.h>

#include <algorithm>

namespace asr {

namespace {

/* Samples, and frames, that are recognized at once: bounds the memory of intermediate
 * values, whatever a model file says. */
enum { MOST_SAMPLES = 1 << 14, MOST_FRAMES = 128 };

}  // namespace

Stream::Stream(std::shared_ptr<const Model> model, const gq_asr_options &options)
    : model_(std::move(model)),
      beam_(options.beam),
      nbest_(options.nbest),
      block_(std::min((int64_t)MOST_SAMPLES, MOST_FRAMES * model_->features->hop)),
      feature_frames_(model_->features->mels),
      encoder_frames_(model_->encoder->outputs) {
    compute_.mode = options.mode == GQ_ASR_INT8 ? GQ_INT8 : GQ_EXACT;
    compute_.threads = options.threads;
}

void Stream::reset(Status &status) {
    compute_.failed = 0;
    finished_ = current_ = false;
    samples_ = 0;
    lost_ = true; /* until all parts have begun anew */
    feature_frames_.clear();
    encoder_frames_.clear();
    features_.reset(new FeatureStream(*model_->features));
    encoder_ = model_->encoder->start(compute_);
    search_ = model_->search(compute_, beam_);
    lost_ = false;
    encoded(status);
}

/* Refuse samples after the end or after an error. */
bool Stream::usable(Status &status) const {
    if (lost_)
        status.fail(GQ_ASR_BAD_STATE, "an earlier call failed; reset the stream first");
    else if (finished_)
        status.fail(GQ_ASR_BAD_STATE, "the utterance has ended; reset the stream first");
    return status.ok();
}

void Stream::feed(const float *samples, int64_t n, Status &status) {
    if (!usable(status)) return;
    for (int64_t i = 0; i < n; ++i) {
        if (fabsf(samples[i]) <= 1e6f) continue;
        status.fail(GQ_ASR_BAD_ARGUMENT,
                    "sample %lld is not a number from -1e6 to 1e6; full scale is -1 to 1",
                    (long long)i);
        return;
    }
    for (int64_t i = 0; i < n && status.ok(); i += block_)
        block(samples + i, std::min(n - i, block_), status);
}

void Stream::feed(const int16_t *samples, int64_t n, Status &status) {
    if (!usable(status)) return;
    std::vector<float> scaled;
    for (int64_t i = 0; i < n && status.ok(); i += block_) {
        const int64_t count = std::min(n - i, block_);
        scaled.resize((size_t)count);
        for (int64_t k = 0; k < count; ++k)
            scaled[(size_t)k] = (float)samples[i + k] / 32768.0f;
        block(scaled.data(), count, status);
    }
}

void Stream::block(const float *samples, int64_t n, Status &status) {
    current_ = false;
    lost_ = true; /* should memory be lacking on the way */
    samples_ += n;
    features_->push(samples, n, feature_frames_);
    encoder_->push(feature_frames_.data.data(), feature_frames_.rows(), encoder_frames_);
    lost_ = false;
    encoded(status);
}

void Stream::finish(Status &status) {
    if (!usable(status)) return;
    current_ = false;
    lost_ = true;
    const std::vector<float> zeros((size_t)encoder_->end(samples_));
    features_->push(zeros.data(), (int64_t)zeros.size(), feature_frames_);
    features_->finish(feature_frames_);
    encoder_->push(feature_frames_.data.data(), feature_frames_.rows(), encoder_frames_);
    encoder_->finish(encoder_frames_);
    lost_ = false;
    encoded(status);
    if (!status.ok()) return;
    search_->finish();
    finished_ = true;
}

/* Hand the encoder's frames to the search, and look whether a kernel failed. */
void Stream::encoded(Status &status) {
    lost_ = true;
    feature_frames_.clear();
    if (encoder_frames_.rows())
        search_->push(encoder_frames_.data.data(), encoder_frames_.rows());
    encoder_frames_.clear();
    if (compute_.failed == 2)
        status.fail(GQ_ASR_NO_MEMORY, "there is no memory to compute in");
    else if (compute_.failed)
        status.fail(GQ_ASR_INTERNAL, "a product was called with arguments out of range");
    lost_ = !status.ok();
}

/* Make results of the search's hypotheses. */
void Stream::update() {
    if (current_) return;
    std::vector<Result> made;
    for (Hypothesis &hypothesis : search_->best(nbest_)) {
        Result result;
        result.hypothesis = std::move(hypothesis);
        result.text = model_->vocabulary->text(result.hypothesis.labels);
        for (int64_t frame : result.hypothesis.frames)
            result.times.push_back((float)((double)frame * model_->frame_seconds()));
        made.push_back(std::move(result));
    }
    results_ = std::move(made);
    current_ = true;
}

int64_t Stream::results() {
    update();
    return (int64_t)results_.size();
}

void Stream::result(int64_t rank, gq_asr_result *result, Status &status) {
    update();
    if (rank < 0 || rank >= (int64_t)results_.size()) {
        status.fail(GQ_ASR_BAD_ARGUMENT, "there is no result %lld; allowed: 0 to %zu",
                    (long long)rank, results_.size() - 1);
        return;
    }
    const Result &found = results_[(size_t)rank];
    result->text = found.text.c_str();
    result->score = found.hypothesis.score;
    result->tokens = (int64_t)found.hypothesis.labels.size();
    result->token = found.hypothesis.labels.data();
    result->time = found.times.data();
}

}  // namespace asr
