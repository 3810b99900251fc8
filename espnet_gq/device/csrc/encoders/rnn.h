/* A stack of LSTM or GRU layers: the encoder `rnn`, and what follows the convolutions of
 * `vgg_rnn`.
 *
 * With projection each layer is h = RNN(x), every sub-th row of h, y = W h + b, and tanh
 * but after the last layer; without it tanh(W h + b) follows the last layer.
 */
#ifndef GQ_ASR_RNN_H
#define GQ_ASR_RNN_H

#include <memory>
#include <vector>

#include "encoders/encoder.h"
#include "layers/recurrent.h"

namespace asr {

struct RnnStack {
    struct Layer {
        Recurrent forward, backward; /* backward only if bidirectional */
        Matrix project;              /* only if `projected` */
        int64_t subsample = 1;
    };
    std::vector<Layer> layers;
    bool bidirectional = false, projected = false;
    Matrix last; /* only if not `projected` */

    int64_t outputs() const { return (projected ? layers.back().project : last).rows(); }
    int64_t stride() const;

    /* From the settings encoder.* and the weights encoder.rnn.*. */
    static RnnStack load(Loader &loader, int64_t inputs);
};

class RnnStream : public EncoderStream {
  public:
    RnnStream(const RnnStack &stack, const Compute &compute);
    void push(const float *x, int64_t n, Frames &out) override;
    void finish(Frames &out) override;

  private:
    struct State {
        std::vector<float> forward; /* h, c */
        int64_t seen = 0;           /* rows so far */
        std::vector<float> kept;    /* rows that are not projected yet */
    };
    /* Run layer `index` over x (n, inputs); return its output, of `rows` rows. */
    const float *run(size_t index, const float *x, int64_t n, int64_t *rows);
    void recur(size_t index, const float *x, int64_t n);
    void through(const float *x, int64_t n, Frames &out);

    const RnnStack &stack_;
    const Compute &compute_;
    std::vector<State> states_;
    std::vector<float> waiting_;             /* features, if bidirectional */
    std::vector<float> hidden_, made_[2], space_;
};

}  // namespace asr

#endif
