/* The encoders that the engine has. */
#include <string>

#include "encoders/encoder.h"

namespace asr {

std::unique_ptr<Encoder> load_conformer(Loader &loader, int64_t inputs);
std::unique_ptr<Encoder> load_chunk_conformer(Loader &loader, int64_t inputs);
std::unique_ptr<Encoder> load_contextual_block(Loader &loader, int64_t inputs);
std::unique_ptr<Encoder> load_e_branchformer(Loader &loader, int64_t inputs);
std::unique_ptr<Encoder> load_rnn(Loader &loader, int64_t inputs);
std::unique_ptr<Encoder> load_vgg_rnn(Loader &loader, int64_t inputs);

namespace {

const struct {
    const char *type; /* gqasr.encoder.type */
    std::unique_ptr<Encoder> (*load)(Loader &loader, int64_t inputs);
} ENCODERS[] = {
    {"conformer", load_conformer},
    {"chunk_conformer", load_chunk_conformer},
    {"contextual_block_conformer", load_contextual_block},
    {"e_branchformer", load_e_branchformer},
    {"rnn", load_rnn},
    {"vgg_rnn", load_vgg_rnn},
};

}  // namespace

std::unique_ptr<Encoder> load_encoder(Loader &loader, int64_t inputs) {
    const std::string type = loader.text("encoder.type");
    for (const auto &one : ENCODERS) {
        if (type != one.type) continue;
        std::unique_ptr<Encoder> found = one.load(loader, inputs);
        return loader.ok() ? std::move(found) : nullptr;
    }
    std::string allowed;
    for (const auto &one : ENCODERS)
        allowed += std::string(allowed.empty() ? "" : ", ") + one.type;
    loader.refuse("has an encoder %s, which this version lacks; it has: %s",
                  quoted(type.data(), type.size()).text, allowed.c_str());
    return nullptr;
}

}  // namespace asr
