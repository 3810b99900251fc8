/* The encoder `e_branchformer`. */
#include "encoders/whole.h"
#include "layers/branchformer_block.h"

namespace asr {

std::unique_ptr<Encoder> load_e_branchformer(Loader &loader, int64_t inputs) {
    std::unique_ptr<WholeEncoder<BranchformerBlock>> encoder(
        new WholeEncoder<BranchformerBlock>);
    const int64_t layers = encoder->load(loader, inputs);
    BranchformerShape shape;
    shape.width = encoder->outputs;
    shape.attention = encoder->placing.attention();
    shape.load(loader);
    for (int64_t i = 0; i < layers && loader.ok(); ++i) {
        const std::string name = "encoder.block." + std::to_string(i);
        encoder->blocks.push_back(BranchformerBlock::load(loader, name, shape));
    }
    return loader.ok() ? std::move(encoder) : nullptr;
}

}  // namespace asr
