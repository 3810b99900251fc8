/* The encoder `vgg_rnn`: two blocks of two 3 x 3 convolutions and a pooling by 2 in time
 * and frequency, then the layers of `rnn`. */
#include <string.h>

#include <algorithm>

#include "encoders/rnn.h"
#include "layers/conv2d.h"

namespace asr {

namespace {

/* The largest of 2 x 2 values; those of the end may be fewer. */
class Pooling {
  public:
    Pooling(int64_t width, int64_t channels) : width_(width), channels_(channels) {}

    void push(const Frames &x, Frames &out) {
        for (int64_t i = 0; i < x.rows(); ++i) {
            if (odd_.empty()) {
                odd_.assign(x.row(i), x.row(i) + x.width);
            } else {
                reduce(odd_.data(), x.row(i), out.add(1));
                odd_.clear();
            }
        }
    }
    void finish(Frames &out) {
        if (!odd_.empty()) reduce(odd_.data(), odd_.data(), out.add(1));
        odd_.clear();
    }

  private:
    void reduce(const float *a, const float *b, float *to) const {
        for (int64_t f = 0; f < width_; f += 2, to += channels_) {
            for (int64_t c = 0; c < channels_; ++c) to[c] = std::max(a[c], b[c]);
            a += channels_, b += channels_;
            if (f + 1 == width_) break;
            for (int64_t c = 0; c < channels_; ++c)
                to[c] = std::max(to[c], std::max(a[c], b[c]));
            a += channels_, b += channels_;
        }
    }

    int64_t width_, channels_;
    std::vector<float> odd_; /* a row that waits for the next */
};

class VggRnn : public Encoder {
  public:
    std::unique_ptr<EncoderStream> start(const Compute &compute) const override;

    Conv2d convs[4];
    RnnStack stack;
};

class VggRnnStream : public EncoderStream {
  public:
    VggRnnStream(const VggRnn &encoder, const Compute &compute)
        : encoder_(encoder),
          convs_{{encoder.convs[0], compute},
                 {encoder.convs[1], compute},
                 {encoder.convs[2], compute},
                 {encoder.convs[3], compute}},
          pooling_{{encoder.convs[1].width_out, encoder.convs[1].outputs()},
                   {encoder.convs[3].width_out, encoder.convs[3].outputs()}},
          rnn_(encoder.stack, compute) {}

    void push(const float *x, int64_t n, Frames &out) override { step(x, n, false, out); }
    void finish(Frames &out) override {
        step(nullptr, 0, true, out);
        rnn_.finish(out);
    }

  private:
    void step(const float *x, int64_t n, bool last, Frames &out) {
        Frames in(encoder_.convs[0].row_in());
        if (n) memcpy(in.add(n), x, (size_t)(n * in.width) * sizeof *x);
        for (int block = 0; block < 2; ++block) {
            for (int i = 2 * block; i < 2 * block + 2; ++i) {
                Frames made(encoder_.convs[i].row_out());
                convs_[i].push(in.data.data(), in.rows(), true, made);
                if (last) convs_[i].finish(true, made);
                in = std::move(made);
            }
            const Conv2d &conv = encoder_.convs[2 * block + 1];
            Frames pooled((conv.width_out + 1) / 2 * conv.outputs());
            pooling_[block].push(in, pooled);
            if (last) pooling_[block].finish(pooled);
            in = std::move(pooled);
        }
        rnn_.push(in.data.data(), in.rows(), out);
    }

    const VggRnn &encoder_;
    Conv2dStream convs_[4];
    Pooling pooling_[2];
    RnnStream rnn_;
};

std::unique_ptr<EncoderStream> VggRnn::start(const Compute &compute) const {
    return std::unique_ptr<EncoderStream>(new VggRnnStream(*this, compute));
}

}  // namespace

std::unique_ptr<Encoder> load_vgg_rnn(Loader &loader, int64_t inputs) {
    std::unique_ptr<VggRnn> encoder(new VggRnn);
    int64_t width = inputs, channels = 1;
    for (int i = 0; i < 4; ++i) {
        encoder->convs[i] = Conv2d::load(loader, "encoder.conv." + std::to_string(i), 3, 1,
                                         1, width, channels);
        channels = encoder->convs[i].outputs();
        if (i % 2) width = (width + 1) / 2;
    }
    if (!loader.ok()) return nullptr;
    encoder->stack = RnnStack::load(loader, width * channels);
    if (!loader.ok()) return nullptr;
    encoder->inputs = inputs;
    encoder->outputs = encoder->stack.outputs();
    encoder->stride = 4 * encoder->stack.stride();
    encoder->streams = !encoder->stack.bidirectional;
    return encoder;
}

}  // namespace asr
