#include "layers/loops.h"

#include <string.h>

#include "api.h"

namespace asr {

const Loops &loops(int isa) {
#if defined(__x86_64__)
    const char *name = gq_isa_name(isa);
    if (!strcmp(name, "avx2")) return avx2_loops;
    if (!strcmp(name, "avx512") || !strcmp(name, "vnni")) return avx512_loops;
#endif
    (void)isa;
    return portable_loops;
}

}  // namespace asr
