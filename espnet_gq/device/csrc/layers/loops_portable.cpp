/* Vectors of 4, which every machine has. */
#include "layers/loops_body.h"

namespace asr {

const Loops portable_loops = MADE;

}  // namespace asr
