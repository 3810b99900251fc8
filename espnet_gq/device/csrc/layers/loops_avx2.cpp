#if defined(__x86_64__)
#include "kernels/avx2.h"
#include "layers/loops.h"
TARGET_BEGIN(GQ_AVX2)
#include "layers/loops_body.h"
TARGET_END

namespace asr {

const Loops avx2_loops = MADE;

}  // namespace asr
#endif
