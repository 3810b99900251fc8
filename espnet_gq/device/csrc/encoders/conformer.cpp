/* The encoder `conformer`. */
#include "encoders/whole.h"
#include "layers/conformer_block.h"

namespace asr {

namespace {

struct Block : ConformerBlock {
    void apply(const Compute &compute, float *x, int64_t n, const float *positions,
               Arena &arena) const {
        View view;
        view.positions = positions;
        ConformerBlock::apply(compute, x, n, view, arena);
    }
};

}  // namespace

std::unique_ptr<Encoder> load_conformer(Loader &loader, int64_t inputs) {
    std::unique_ptr<WholeEncoder<Block>> encoder(new WholeEncoder<Block>);
    const int64_t layers = encoder->load(loader, inputs);
    ConformerShape shape;
    shape.width = encoder->outputs;
    shape.attention = encoder->placing.attention();
    shape.load(loader);
    for (int64_t i = 0; i < layers && loader.ok(); ++i) {
        const std::string name = "encoder.block." + std::to_string(i);
        encoder->blocks.push_back({ConformerBlock::load(loader, name, shape)});
    }
    return loader.ok() ? std::move(encoder) : nullptr;
}

}  // namespace asr
