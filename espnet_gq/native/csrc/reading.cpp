/* Memory bandwidth: reading and nothing else. */
#include "api.h"
#include "dispatch.h"
#include "team.h"

using namespace gq;

namespace {

struct reading {
    const uint8_t *data;
    int64_t bytes;
    const instruction_set *set;
    uint64_t *sum;
};

const int64_t READ_BYTES = 1 << 18;

void read_part(const void *what, int64_t index) {
    const reading &r = *(const reading *)what;
    int64_t begin = index * READ_BYTES;
    uint64_t sum = r.set->read(r.data + begin, least(READ_BYTES, r.bytes - begin));
    __atomic_fetch_add(r.sum, sum, __ATOMIC_RELAXED);
}

}  // namespace

uint64_t gq_read(const uint8_t *data, int64_t bytes, int threads, int isa) {
    const instruction_set *set = instructions(isa);
    uint64_t sum = 0;
    if (!set || !data || bytes <= 0) return 0;
    reading r = {data, bytes / 256 * 256, set, &sum};
    run_long_tasks(read_part, &r, over(r.bytes, READ_BYTES), threads);
    return sum;
}
