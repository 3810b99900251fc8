#include "dispatch.h"

#include "api.h"

namespace {

struct usable_t {
    const gq::instruction_set *set[5];
    int count;
};

usable_t find_instruction_sets() {
    usable_t found = {};
#if defined(GQ_PORTABLE)
#elif defined(__x86_64__)
    __builtin_cpu_init();
    bool avx512 = __builtin_cpu_supports("avx512f") &&
                  __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
    if (avx512 && __builtin_cpu_supports("avx512vbmi") &&
        __builtin_cpu_supports("avx512vnni")) {
        /* Of family 19h only Zen 4 has AVX-512. */
        if (__builtin_cpu_is("amdfam19h")) found.set[found.count++] = &gq::vnni_zen4;
        found.set[found.count++] = &gq::vnni;
    }
    if (avx512) found.set[found.count++] = &gq::avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        found.set[found.count++] = &gq::avx2;
#elif defined(__aarch64__)
    found.set[found.count++] = &gq::neon;
#endif
    found.set[found.count++] = &gq::portable;
    return found;
}

const usable_t &usable() {
    static const usable_t found = find_instruction_sets();
    return found;
}

}  // namespace

const gq::instruction_set *gq::instructions(int isa) {
    return isa >= 0 && isa < usable().count ? usable().set[isa] : nullptr;
}

int gq_isa_count(void) { return usable().count; }

const char *gq_isa_name(int isa) {
    const gq::instruction_set *set = gq::instructions(isa);
    return set ? set->name : "";
}
