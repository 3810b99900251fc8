#include "encoders/rnn.h"

#include <string>

#include "layers/activation.h"

namespace asr {

namespace {

enum {
    MOST_LAYERS = 1000,
    MOST_UNITS = 1 << 20,
    MOST_SUBSAMPLE = 64,
    MOST_STRIDE = 1 << 16
};

class RnnEncoder : public Encoder {
  public:
    std::unique_ptr<EncoderStream> start(const Compute &compute) const override {
        return std::unique_ptr<EncoderStream>(new RnnStream(stack, compute));
    }
    RnnStack stack;
};

}  // namespace

int64_t RnnStack::stride() const {
    int64_t stride = 1;
    for (const Layer &layer : layers)
        if (stride <= MOST_STRIDE) stride *= layer.subsample;
    return stride;
}

RnnStack RnnStack::load(Loader &loader, int64_t inputs) {
    RnnStack stack;
    const int cell = load_cell(loader, "encoder.cell");
    const int64_t count = loader.number("encoder.layers", 1, MOST_LAYERS);
    const int64_t units = loader.number("encoder.units", 1, MOST_UNITS);
    stack.bidirectional = loader.flag("encoder.bidirectional");
    stack.projected = loader.flag("encoder.projection");
    std::vector<int64_t> subsample((size_t)count, 1);
    if (stack.projected)
        subsample = loader.numbers("encoder.subsample", count, 1, MOST_SUBSAMPLE);
    int64_t width = inputs;
    const int64_t both = stack.bidirectional ? 2 * units : units;
    for (int64_t i = 0; i < count && loader.ok(); ++i) {
        const std::string name = "encoder.rnn." + std::to_string(i);
        Layer layer;
        layer.subsample = subsample[(size_t)i];
        layer.forward = Recurrent::load(loader, name + ".forward", cell, width, units);
        if (stack.bidirectional)
            layer.backward = Recurrent::load(loader, name + ".backward", cell, width, units);
        width = both;
        if (stack.projected) {
            layer.project = loader.matrix(name + ".project", -1, both);
            width = layer.project.rows();
        }
        stack.layers.push_back(layer);
    }
    if (stack.stride() > MOST_STRIDE) loader.refuse("subsamples by too much");
    if (!stack.projected) stack.last = loader.matrix("encoder.project", -1, both);
    return stack;
}

RnnStream::RnnStream(const RnnStack &stack, const Compute &compute)
    : stack_(stack), compute_(compute), states_(stack.layers.size()) {
    for (size_t i = 0; i < states_.size(); ++i)
        states_[i].forward.assign((size_t)stack.layers[i].forward.state(), 0.0f);
}

void RnnStream::push(const float *x, int64_t n, Frames &out) {
    if (stack_.bidirectional)
        waiting_.insert(waiting_.end(), x, x + n * stack_.layers[0].forward.inputs);
    else
        through(x, n, out);
}

void RnnStream::finish(Frames &out) {
    if (!stack_.bidirectional) return;
    const std::vector<float> x = std::move(waiting_);
    through(x.data(), (int64_t)x.size() / stack_.layers[0].forward.inputs, out);
}

void RnnStream::through(const float *x, int64_t n, Frames &out) {
    for (size_t i = 0; i < stack_.layers.size(); ++i) {
        if (n == 0) return;
        x = run(i, x, n, &n);
    }
    float *to = out.add(n);
    const int64_t width = out.width;
    if (stack_.projected) {
        for (int64_t i = 0; i < n * width; ++i) to[i] = x[i];
    } else {
        stack_.last.apply(compute_, x, n, to);
        activate(Activation::TANH, to, n * width);
    }
}

/* Put the hidden states of a layer for x (n, inputs) into hidden_. */
void RnnStream::recur(size_t index, const float *x, int64_t n) {
    const RnnStack::Layer &layer = stack_.layers[index];
    const int64_t units = layer.forward.units;
    const int64_t ld = stack_.bidirectional ? 2 * units : units;
    hidden_.resize((size_t)(n * ld));
    layer.forward.run(compute_, x, n, false, states_[index].forward.data(),
                      hidden_.data(), ld, space_);
    if (!stack_.bidirectional) return;
    std::vector<float> state((size_t)layer.backward.state());
    layer.backward.run(compute_, x, n, true, state.data(), hidden_.data() + units, ld,
                       space_);
}

const float *RnnStream::run(size_t index, const float *x, int64_t n, int64_t *rows) {
    const RnnStack::Layer &layer = stack_.layers[index];
    State &state = states_[index];
    recur(index, x, n);
    *rows = n;
    std::vector<float> &made = made_[index % 2];
    if (!stack_.projected) {
        made.swap(hidden_);
        return made.data();
    }
    /* Of n rows ESPnet takes every sub-th, and of these the first (n + 1) / sub. With a
     * sub above 2 some have to wait for later rows. */
    const int64_t sub = layer.subsample, width = layer.project.cols();
    const int64_t total = state.seen + n;
    const int64_t due = (total + 1) / sub - (state.seen + 1) / sub;
    const float *from = hidden_.data();
    int64_t taken = n;
    if (sub > 1) {
        for (int64_t i = (sub - state.seen % sub) % sub; i < n; i += sub)
            state.kept.insert(state.kept.end(), from + i * width, from + (i + 1) * width);
        from = state.kept.data();
        taken = due;
    }
    state.seen = total;
    made.resize((size_t)(taken * layer.project.rows()));
    layer.project.apply(compute_, from, taken, made.data());
    if (sub > 1) state.kept.erase(state.kept.begin(), state.kept.begin() + due * width);
    if (index + 1 < stack_.layers.size())
        activate(Activation::TANH, made.data(), taken * layer.project.rows());
    *rows = taken;
    return made.data();
}

std::unique_ptr<Encoder> load_rnn(Loader &loader, int64_t inputs) {
    std::unique_ptr<RnnEncoder> encoder(new RnnEncoder);
    encoder->stack = RnnStack::load(loader, inputs);
    if (!loader.ok()) return nullptr;
    encoder->inputs = inputs;
    encoder->outputs = encoder->stack.outputs();
    encoder->stride = encoder->stack.stride();
    encoder->streams = !encoder->stack.bidirectional;
    return encoder;
}

}  // namespace asr
