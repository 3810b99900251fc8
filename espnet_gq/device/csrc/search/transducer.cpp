/* What the searches of a transducer share. */
#include "search/search.h"

namespace asr {

std::unique_ptr<Transducer> Transducer::load(Loader &loader, int64_t encoded,
                                             int64_t tokens) {
    std::unique_ptr<Transducer> found(new Transducer);
    found->predictor = load_predictor(loader, tokens);
    if (!found->predictor) return nullptr;
    found->joint = Joint::load(loader, encoded, found->predictor->outputs, tokens);
    if (loader.has("transducer.greedy")) found->greedy = loader.flag("transducer.greedy");
    if (loader.has("transducer.normalized"))
        found->normalized = loader.flag("transducer.normalized");
    return loader.ok() ? std::move(found) : nullptr;
}

std::shared_ptr<const Predicted> predict(const Transducer &transducer,
                                         const Compute &compute, const Predicted *before,
                                         int64_t label) {
    const Predictor &predictor = *transducer.predictor;
    std::shared_ptr<Predicted> made = std::make_shared<Predicted>();
    std::vector<float> zeros, out((size_t)predictor.outputs);
    if (!before) zeros.resize((size_t)predictor.state);
    made->state.resize((size_t)predictor.state);
    predictor.step(compute, label, before ? before->state.data() : zeros.data(),
                   made->state.data(), out.data());
    made->joint.resize((size_t)transducer.joint.width());
    transducer.joint.predictor.apply(compute, out.data(), 1, made->joint.data());
    return made;
}

}  // namespace asr
