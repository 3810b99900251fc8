/* Any machine, NEON among them: the compiler's vectors of four. */
#include "quantizer/loops.h"

namespace {

struct lookup {
    template <int BITS>
    INLINE vf look_up(const float *table, vi k) {
        k &= (1 << BITS) - 1;
        return vf{table[k[0]], table[k[1]], table[k[2]], table[k[3]]};
    }
};

}  // namespace

constexpr gq::quantizer_pass gq::pass_portable = gq::make_pass<loops<lookup>>();
