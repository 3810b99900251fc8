/* The prediction network of a transducer: a label at a time.
 *
 * Adding one: a file predictors/NAME.cpp, its line in predictors/table.cpp, and what
 * writes it in espnet_gq/espnet/exporting/predictors.py.
 */
#ifndef GQ_ASR_PREDICTOR_H
#define GQ_ASR_PREDICTOR_H

#include <memory>

#include "file/loader.h"
#include "layers/matrix.h"

namespace asr {

class Predictor {
  public:
    virtual ~Predictor() = default;
    /* Read a label, below the number of tokens. before, after: (state()), not the same;
     * a state begins with zeros. out: (outputs). */
    virtual void step(const Compute &compute, int64_t label, const float *before,
                      float *after, float *out) const = 0;

    int64_t state = 0; /* floats of a state */
    int64_t outputs = 0;
};

/* The predictor of a model file of `tokens` tokens; nullptr after a failure. */
std::unique_ptr<Predictor> load_predictor(Loader &loader, int64_t tokens);

}  // namespace asr

#endif
