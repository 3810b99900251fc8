/* The prediction networks that the engine has. */
#include <string>

#include "predictors/predictor.h"

namespace asr {

std::unique_ptr<Predictor> load_rnn_predictor(Loader &loader, int64_t tokens);
std::unique_ptr<Predictor> load_stateless_predictor(Loader &loader, int64_t tokens);

std::unique_ptr<Predictor> load_predictor(Loader &loader, int64_t tokens) {
    const std::string type = loader.text("predictor.type");
    std::unique_ptr<Predictor> found;
    if (type == "rnn")
        found = load_rnn_predictor(loader, tokens);
    else if (type == "stateless")
        found = load_stateless_predictor(loader, tokens);
    else
        loader.refuse("has a predictor %s, which this version lacks; it has: rnn, stateless",
                      quoted(type.data(), type.size()).text);
    return loader.ok() ? std::move(found) : nullptr;
}

}  // namespace asr
