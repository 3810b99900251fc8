/* Failing, buffers that end where memory ends, and random numbers. */
#ifndef ESPNET_GQ_CHECKING_H
#define ESPNET_GQ_CHECKING_H

#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <vector>

#include "api.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif

namespace {

unsigned long long seed = 1;

[[noreturn]] __attribute__((format(printf, 1, 2))) void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    printf("native_check failed (seed %llu): ", seed);
    vprintf(format, arguments);
    printf("\n");
    va_end(arguments);
    exit(1);
}

/* The call in progress, for the message about one that touches what it must not. */
const char *current_call = "";
int current_isa = -1;

void about_to(const char *call, int isa) {
    current_call = call;
    current_isa = isa;
}

#if defined(__SANITIZE_ADDRESS__)
void *allocate(size_t bytes) { return malloc(bytes); }
void release(void *data, size_t) { free(data); }
void catch_faults() {}
#else
size_t up_to_page(size_t bytes) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (bytes + page - 1) / page * page;
}

void *allocate(size_t bytes) {
    const size_t room = up_to_page(bytes), page = up_to_page(1);
    void *base = mmap(nullptr, room + page, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED || mprotect((char *)base + room, page, PROT_NONE))
        return nullptr;
    return (char *)base + (room - bytes);
}

void release(void *data, size_t bytes) {
    const size_t room = up_to_page(bytes);
    munmap((char *)data - (room - bytes), room + up_to_page(1));
}

void fault(int) {
    char text[200];
    int n = snprintf(text, sizeof text,
                     "native_check failed (seed %llu): %s, %s: outside a buffer\n",
                     seed, current_call, gq_isa_name(current_isa));
    if (n >= (int)sizeof text) n = (int)sizeof text - 1;
    if (write(1, text, (size_t)n) < 0) _exit(2);
    _exit(1);
}

void catch_faults() {
    signal(SIGSEGV, fault);
    signal(SIGBUS, fault);
}
#endif

/* A buffer of exactly n elements, not NULL where n is 0. */
template <typename T>
struct buffer {
    T *data;
    int64_t size;

    explicit buffer(int64_t n) : data((T *)allocate((size_t)n * sizeof(T))), size(n) {
        if (!data) fail("no memory");
    }
    buffer(const buffer &) = delete;
    buffer &operator=(const buffer &) = delete;
    ~buffer() { release(data, (size_t)size * sizeof(T)); }
    T &operator[](int64_t i) { return data[i]; }
    const T &operator[](int64_t i) const { return data[i]; }
    void fill(T value) {
        for (int64_t i = 0; i < size; ++i) data[i] = value;
    }
};

/* splitmix64: the same numbers with every compiler. */
uint64_t state;

uint64_t random_word() {
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

int64_t below(int64_t n) { return (int64_t)(random_word() % (uint64_t)n); }
int64_t between(int64_t low, int64_t high) { return low + below(high - low + 1); }
bool chance(int percent) { return below(100) < percent; }
float uniform() { return (float)((double)random_word() / 9223372036854775808.0 - 1.0); }

/* Sizes around the ends of stripes and blocks, and any up to `most`. */
int64_t some_size(int64_t most) {
    const int64_t edges[] = {0,  1,  2,  3,  4,  5,  15, 16,  17,  31,
                             32, 33, 47, 48, 63, 64, 65, 127, 128, 129};
    int64_t size = chance(60) ? edges[below(20)] : below(most + 1);
    return size < most ? size : most;
}

const float UNWRITTEN = -12345.678f;

void expect(bool refused, const char *what) {
    if (!refused) fail("not refused: %s", what);
}
#define REFUSED(call) (about_to(#call, -1), expect((call) == 1, #call))

}  // namespace

#endif
