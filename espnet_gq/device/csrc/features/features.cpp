#include "features/features.h"

#include <math.h>

#include <algorithm>

namespace asr {

namespace {

enum { MOST_FFT = 1 << 13, MOST_MELS = 1 << 10, MOST_RATE = 1 << 20 };

}  // namespace

Features::Features(Loader &loader) {
    if (loader.text("features.type") != "logmel")
        loader.refuse("has features of another type; allowed: logmel");
    rate = loader.number("features.sample_rate", 1, MOST_RATE);
    n_fft = loader.number("features.n_fft", 2, MOST_FFT);
    hop = loader.number("features.hop_length", 1, MOST_FFT);
    mels = loader.number("features.n_mels", 1, MOST_MELS);
    center = loader.flag("features.center");
    if (n_fft % 2) loader.refuse("has an odd gqasr.features.n_fft");
    const int64_t bins = n_fft / 2 + 1;
    window = loader.floats("features.window", n_fft);
    const float *mel = loader.floats("features.mel", mels * bins);
    mean = std = nullptr;
    if (loader.has_tensor("features.mean")) mean = loader.floats("features.mean", mels);
    if (loader.has_tensor("features.std")) std = loader.floats("features.std", mels);
    own_mean = loader.has("features.own_mean") && loader.flag("features.own_mean");
    own_std = loader.has("features.own_std") && loader.flag("features.own_std");
    if (!loader.ok()) return;
    for (int64_t b = 0; b < mels; ++b) {
        Band band = {0, bins, mel + b * bins};
        while (band.begin < band.end && band.weight[band.begin] == 0) ++band.begin;
        while (band.begin < band.end && band.weight[band.end - 1] == 0) --band.end;
        bands.push_back(band);
    }
    spectrum.reset(new Spectrum(n_fft));
}

/* Put the reflected samples before the first ones. */
void FeatureStream::begin() {
    begun_ = true;
    if (!features_.center) return;
    const int64_t half = features_.n_fft / 2;
    std::vector<float> reflected((size_t)half);
    for (int64_t i = 0; i < half; ++i) reflected[(size_t)i] = buffer_[(size_t)(half - i)];
    buffer_.insert(buffer_.begin(), reflected.begin(), reflected.end());
}

void FeatureStream::push(const float *samples, int64_t n, Frames &out) {
    buffer_.insert(buffer_.end(), samples, samples + n);
    total_ += n;
    if (!begun_) {
        if (features_.center && total_ <= features_.n_fft / 2) return;
        begin();
    }
    emit(out);
}

void FeatureStream::finish(Frames &out) {
    if (total_ == 0) return;
    const int64_t half = features_.n_fft / 2;
    /* An utterance shorter than a frame ends with silence. */
    const int64_t least = features_.center ? half + 1 : features_.n_fft;
    if (total_ < least) {
        const std::vector<float> silence((size_t)(least - total_));
        push(silence.data(), least - total_, out);
    }
    if (features_.center) {
        const size_t last = buffer_.size() - 1;
        for (int64_t i = 1; i <= half; ++i) buffer_.push_back(buffer_[last - (size_t)i]);
        emit(out);
    }
    if (!features_.wait()) return;
    normalize();
    out.data.insert(out.data.end(), waiting_.data.begin(), waiting_.data.end());
    waiting_.clear();
}

/* Normalize the frames of the whole utterance by their mean and deviation. */
void FeatureStream::normalize() {
    const int64_t n = waiting_.rows();
    for (int64_t b = 0; b < features_.mels; ++b) {
        double sum = 0.0, squares = 0.0;
        for (int64_t i = 0; i < n; ++i) sum += waiting_.row(i)[b];
        const double mean = sum / (double)n;
        for (int64_t i = 0; i < n; ++i) {
            const double distance = waiting_.row(i)[b] - mean;
            squares += distance * distance;
        }
        const double std = std::max(sqrt(squares / (double)n), 1e-20);
        for (int64_t i = 0; i < n; ++i) {
            float &value = waiting_.row(i)[b];
            if (features_.own_mean) value -= (float)mean;
            if (features_.own_std) value = (float)(value / std);
        }
    }
}

/* Append the frames that the buffer holds. */
void FeatureStream::emit(Frames &out) {
    Frames &to = features_.wait() ? waiting_ : out;
    const int64_t have = (int64_t)buffer_.size(), n_fft = features_.n_fft;
    for (; next_ + n_fft <= have; next_ += features_.hop)
        frame(buffer_.data() + next_, to.add(1));
    /* The end of an utterance is reflected: half a frame and a sample are kept. */
    const int64_t gone = std::min(next_, have - n_fft / 2 - 1);
    if (gone > 0) {
        buffer_.erase(buffer_.begin(), buffer_.begin() + gone);
        next_ -= gone;
    }
}

void FeatureStream::frame(const float *samples, float *out) {
    const Features &f = features_;
    windowed_.resize((size_t)f.n_fft);
    power_.resize((size_t)f.spectrum->bins());
    for (int64_t i = 0; i < f.n_fft; ++i) windowed_[(size_t)i] = samples[i] * f.window[i];
    f.spectrum->power(windowed_.data(), power_.data(), space_);
    for (int64_t b = 0; b < f.mels; ++b) {
        const Features::Band &band = f.bands[(size_t)b];
        float sum = 0.0f;
        for (int64_t k = band.begin; k < band.end; ++k)
            sum += band.weight[k] * power_[(size_t)k];
        float value = logf(sum > 1e-10f ? sum : 1e-10f);
        if (f.mean) value -= f.mean[b];
        if (f.std) value /= f.std[b];
        out[b] = value;
    }
}

}  // namespace asr
