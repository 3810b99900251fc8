#if defined(__x86_64__)
#include "kernels/avx512.h"
#include "layers/loops.h"
TARGET_BEGIN(GQ_AVX512)
#include "layers/loops_body.h"
TARGET_END

namespace asr {

const Loops avx512_loops = MADE;

}  // namespace asr
#endif
