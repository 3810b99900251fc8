/* What an instruction set provides: the inner loops of packed products, of recurrent
 * layers and of the quantizer.
 *
 * A packed product works on one stripe (packed/layout.h) and a tile of TILE rows of
 * activations, or of 1, 2, 4 of them, stored group by group: the 4 values of each row in
 * turn.
 */
#ifndef ESPNET_GQ_INSTRUCTION_SET_H
#define ESPNET_GQ_INSTRUCTION_SET_H

#include <stdint.h>

#include <utility>

#include "packed/layout.h"
#include "quantizer/pass.h"

namespace gq {

enum {
    TILE = 8,
    PAIR = 2,             /* stripes that share the activations of a tile */
    SHARING = 4,          /* stripes that share tables of sums */
    CHUNK_BYTES = 1 << 13 /* of a stripe's codes that are unpacked at a time */
};

/* The codebook, in the forms that kernels look values up in. */
struct tables {
    float value[256];     /* centroid of index i, repeated with period 2^bits */
    int8_t code[256];     /* the same rounded: value is about unit * code */
    uint8_t byte[4][256]; /* the bytes of value, lowest first */
    float unit;
    bool cached;          /* whether a second-level cache can hold the weight */
};

/* What to prefetch beside the work: of each stripe `lines` lines of 64 bytes per block. */
struct ahead_t {
    const uint8_t *at[PAIR];
    int64_t lines;
};

/* The results of a tile with a stripe: n rows of `rows` values, `ld` apart. */
struct result_t {
    float *out;
    int64_t n, rows, ld;
    const float *scale, *bias; /* (16) of the stripe */
};

struct instruction_set {
    const char *name;

    /* out[m, r] = sum_c value[r, c] x[m, c], unpacked in registers.
     * By log2 of the rows of a tile, and by bits - 1.
     * stripe: (blocks), x: (8 blocks, m, 4), out: (m, 16). */
    void (*dot_float[4][8])(const uint8_t *stripe, int64_t blocks, const tables *t,
                            const float *x, float *out);
    /* The same of codes. total: (m), the sum of each row of x. */
    void (*dot_int8[4][8])(const uint8_t *stripe, int64_t blocks, const tables *t,
                           const int8_t *x, const int32_t *total, int32_t *out);

    /* The products of one row of activations by tables of sums, at 1 and 2 bits, by
     * bits - 1; NULL where they would not be faster. The four bits of a nibble of a plane
     * are the indices of 4 / bits columns: there is a table of what each value of these
     * bits adds to the result. Each is loaded once for several stripes. x: (n), sums:
     * (blocks, 8 bits, 16), out: (SHARING, 16). */
    void (*fill_sums[2])(const float *x, int64_t n, const tables *t, float *sums);
    void (*dot_sums[2])(const uint8_t *const *stripe, int64_t blocks, const float *sums,
                        float *out);

    /* A stripe unpacked, by bits - 1: its values (32 blocks, 16), or its codes
     * (8 blocks, 16, 4) in the form that this instruction set multiplies. */
    void (*values[8])(const uint8_t *stripe, int64_t blocks, const tables *t,
                      float *out);
    void (*codes[8])(const uint8_t *stripe, int64_t blocks, const tables *t,
                     uint8_t *out);

    /* The products with an unpacked stripe, added to `out`, by log2 of the rows of a
     * tile. */
    void (*dot_values[4])(const float *values, int64_t blocks, const float *x,
                          ahead_t ahead, float *out);
    void (*dot_codes[4])(const uint8_t *codes, int64_t blocks, const int8_t *x,
                         const int32_t *total, ahead_t ahead, int32_t *out);
    /* The same of two stripes and a full tile: each value of x is loaded once for both.
     * codes: (2, CHUNK_BYTES), out: (2, 8, 16). NULL where it would not be faster. */
    void (*dot_pair)(const uint8_t *codes, int64_t blocks, const int8_t *x,
                     const int32_t *total, ahead_t ahead, int32_t *out);

    /* out[i, r] = bias[r] + sum[i, r] scale[r], and of codes
     * out[i, r] = bias[r] + sum[i, r] (unit[i] unit_of_codes scale[r]). sum: (n, 16). */
    void (*store_values)(const result_t &to, const float *sum);
    void (*store_codes)(const result_t &to, const int32_t *sum, const float *unit,
                        float unit_of_codes);

    /* q[4 m (i / 4) + i % 4] = round(x[i] / unit), the rest of the blocks 0, where
     * unit = max |x| / 127. x: (n), one row of a tile of m. Returns unit (NaN where a
     * value is not finite), and the sum of q in *total. */
    float (*round_row)(const float *x, int64_t n, int64_t m, int8_t *q, int32_t *total);

    /* One step of a recurrence. gates: (4, n) i, f, g, o; state c: (n), updated;
     * h: (n). */
    void (*lstm)(const float *gates, float *c, float *h, int64_t n);
    /* input: (3, n), hidden: (3, n) r, z, n of both products; h: (n), updated. */
    void (*gru)(const float *input, const float *hidden, float *h, int64_t n);

    /* Sum of the 64-bit words of a buffer whose size is a multiple of 256. */
    uint64_t (*read)(const uint8_t *data, int64_t bytes);

    const quantizer_pass *quantizer; /* NULL with GQ_WITHOUT_QUANTIZER */
};

extern const instruction_set portable;
#if defined(__x86_64__)
extern const instruction_set avx2, avx512, vnni, vnni_zen4;
#elif defined(__aarch64__)
extern const instruction_set neon;
#endif

/* Fill what depends on the rows of a tile, then what depends on the bits alone. K: a
 * class with the kernels as static members, templates of bits and rows. */
template <class K, int LOG2, int... BIT>
constexpr void fill_rows(instruction_set &s, std::integer_sequence<int, BIT...>) {
    ((s.dot_float[LOG2][BIT] = K::template dot_float<BIT + 1, 1 << LOG2>), ...);
    ((s.dot_int8[LOG2][BIT] = K::template dot_int8<BIT + 1, 1 << LOG2>), ...);
    s.dot_values[LOG2] = K::template dot_values<1 << LOG2>;
    s.dot_codes[LOG2] = K::template dot_codes<1 << LOG2>;
}

template <class K, int... LOG2, int... BIT>
constexpr void fill(instruction_set &s, std::integer_sequence<int, LOG2...>,
                    std::integer_sequence<int, BIT...> bits) {
    (fill_rows<K, LOG2>(s, bits), ...);
    ((s.values[BIT] = K::template values<BIT + 1>), ...);
    ((s.codes[BIT] = K::template codes<BIT + 1>), ...);
}

template <class K>
constexpr instruction_set make_instruction_set(const char *name,
                                               const quantizer_pass *quantizer) {
    instruction_set s = {};
    s.name = name;
    fill<K>(s, std::make_integer_sequence<int, 4>(),
            std::make_integer_sequence<int, 8>());
    s.store_values = K::store_values;
    s.store_codes = K::store_codes;
    s.round_row = K::round_row;
    s.lstm = K::lstm;
    s.gru = K::gru;
    s.read = K::read;
#if defined(GQ_WITHOUT_QUANTIZER)
    (void)quantizer; /* inference alone: nothing refers to its code */
#else
    s.quantizer = quantizer;
#endif
    return s;
}

/* What only AVX-512 has. `pairs`: of stripes. */
template <class K>
constexpr instruction_set make_wide_instruction_set(const char *name,
                                                    const quantizer_pass *quantizer,
                                                    bool pairs) {
    instruction_set s = make_instruction_set<K>(name, quantizer);
    if (pairs) s.dot_pair = K::template dot_codes<TILE, PAIR>;
    s.fill_sums[0] = K::template fill_sums<1>;
    s.fill_sums[1] = K::template fill_sums<2>;
    s.dot_sums[0] = K::template dot_sums<1>;
    s.dot_sums[1] = K::template dot_sums<2>;
    return s;
}

}  // namespace gq

#endif
