#if defined(__x86_64__)
#include "kernels/avx2.h"
#include "quantizer/pass.h"
TARGET_BEGIN(GQ_AVX2)
#include "quantizer/loops.h"

namespace {

struct lookup {
    template <int BITS>
    INLINE vf look_up(const float *table, vi k) {
        return (vf)::look_up<BITS>(table, (__m256i)k);
    }
};

}  // namespace
TARGET_END

constexpr gq::quantizer_pass gq::pass_avx2 = gq::make_pass<loops<lookup>>();
#endif
