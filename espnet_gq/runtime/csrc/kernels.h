/* What an instruction set has to provide, and the layout it reads.
 *
 * A weight matrix (rows, cols) of b-bit indices is cut into stripes of 16 rows, and a
 * stripe into blocks of 32 columns; both are filled up with index 0. A block has 8
 * groups of 16 rows x 4 columns: group g holds columns 4 g to 4 g + 3, and byte
 * 4 r + j of a group's 64 belongs to row r, column j. The b bits of an index are split
 * into parts of 8, 4, 2 and 1 bits (5 = 4 + 1), low bits in the widest part, and each
 * part is a plane of its own: in a plane of p bits, byte i of its n-th 64 bytes holds
 * the parts of byte i of the groups 8 / p * n to 8 / p * (n + 1) - 1, lowest bits
 * first. A block thus takes 64 b bytes, its planes one after the other, the widest
 * first. Blocks follow each other along a stripe, and stripes along the matrix.
 *
 * An instruction set works on one stripe and a tile of TILE rows of activations (or of
 * 1, 2, 4 of them), stored group by group: the 4 values of each row in turn.
 */
#ifndef ESPNET_GQ_KERNELS_H
#define ESPNET_GQ_KERNELS_H

#include <stddef.h>
#include <stdint.h>

enum { ROWS = 16, COLS = 32, TILE = 8 };

/* Bytes of a block of one part, and where it begins, for b bits. */
struct part {
    int bits;  /* 8, 4, 2 or 1 */
    int below; /* bits of the index below this part */
    int begin; /* byte in the block */
};

/* The codebook, in the forms that kernels look values up in. */
struct tables {
    float value[256];  /* centroid of index i, repeated with period 2^bits */
    int8_t code[256];  /* the same rounded: value is about unit * code */
    uint8_t byte[4][256]; /* the bytes of value, lowest first */
    float unit;
};

/* What may be asked of memory meanwhile: some lines of 64 bytes for each block. */
struct ahead_t {
    const uint8_t *at;
    int64_t lines;
};

/* x: a tile, (cols / 4, m, 4). out: (m, 16), the sum over the columns of value * x. */
typedef void (*dot_float_t)(const uint8_t *stripe, int64_t blocks, const tables *t,
                            const float *x, float *out);
/* total: (m), the sum of each row of x. out: (m, 16), the sum of code * x. */
typedef void (*dot_int8_t)(const uint8_t *stripe, int64_t blocks, const tables *t,
                           const int8_t *x, const int32_t *total, int32_t *out);

struct instruction_set {
    const char *name;
    /* By log2 of the rows of a tile (1, 2, 4, 8) and by bits - 1. */
    dot_float_t dot_float[4][8];
    dot_int8_t dot_int8[4][8];
    /* A stripe unpacked: its values (32 blocks, 16), or its codes (8 blocks, 16, 4) in
     * the form that this instruction set multiplies. */
    void (*values[8])(const uint8_t *stripe, int64_t blocks, const tables *t,
                      float *out);
    void (*codes[8])(const uint8_t *stripe, int64_t blocks, const tables *t,
                     uint8_t *out);
    /* The products with an unpacked stripe, by log2 of the rows of a tile. */
    void (*dot_values[4])(const float *values, int64_t blocks, const float *x,
                          ahead_t ahead, float *out);
    void (*dot_codes[4])(const uint8_t *codes, int64_t blocks, const int8_t *x,
                         const int32_t *total, ahead_t ahead, int32_t *out);
    /* q[4 * m * (i / 4) + i % 4] = round(x[i] / unit), the rest of the blocks 0, where
     * unit = max |x| / 127, for n values of one row of a tile of m. Returns unit (NaN
     * where a value is not finite), and their sum in *total. */
    float (*quantize)(const float *x, int64_t n, int64_t m, int8_t *q, int32_t *total);
    /* One step of a recurrence for n units. gates: (4, n) i, f, g, o; state c: (n),
     * updated; h: (n). */
    void (*lstm)(const float *gates, float *c, float *h, int64_t n);
    /* input: (3, n), hidden: (3, n) r, z, n of both products; h: (n), updated. */
    void (*gru)(const float *input, const float *hidden, float *h, int64_t n);
    /* Sum of the 64-bit words of a buffer whose size is a multiple of 256. */
    uint64_t (*read)(const uint8_t *data, int64_t bytes);
};

extern "C" {
extern const instruction_set gq_portable;
#if defined(__x86_64__)
extern const instruction_set gq_avx2, gq_avx512, gq_vnni;
#elif defined(__aarch64__)
extern const instruction_set gq_neon;
#endif
}

#endif
