/* An embedding and a stack of LSTM or GRU layers. */
#include <string.h>

#include <string>
#include <vector>

#include "layers/recurrent.h"
#include "predictors/predictor.h"

namespace asr {

namespace {

enum { MOST_LAYERS = 100, MOST_UNITS = 1 << 20 };

class RnnPredictor : public Predictor {
  public:
    void step(const Compute &compute, int64_t label, const float *before, float *after,
              float *out) const override {
        std::vector<float> space;
        std::vector<float> x((size_t)embed.cols());
        embed.row(compute, label, x.data());
        memcpy(after, before, (size_t)state * sizeof *after);
        for (const Recurrent &layer : layers) {
            layer.run(compute, x.data(), 1, false, after, out, layer.units, space);
            x.assign(out, out + layer.units);
            after += layer.state();
        }
    }

    Matrix embed; /* (tokens, inputs of the first layer) */
    std::vector<Recurrent> layers;
};

}  // namespace

std::unique_ptr<Predictor> load_rnn_predictor(Loader &loader, int64_t tokens) {
    std::unique_ptr<RnnPredictor> found(new RnnPredictor);
    const int cell = load_cell(loader, "predictor.cell");
    const int64_t count = loader.number("predictor.layers", 1, MOST_LAYERS);
    const int64_t units = loader.number("predictor.units", 1, MOST_UNITS);
    found->embed = loader.matrix("predictor.embed", tokens, -1);
    int64_t width = found->embed.cols();
    for (int64_t i = 0; i < count && loader.ok(); ++i) {
        found->layers.push_back(Recurrent::load(
            loader, "predictor.rnn." + std::to_string(i), cell, width, units));
        found->state += found->layers.back().state();
        width = units;
    }
    found->outputs = units;
    return found;
}

}  // namespace asr
