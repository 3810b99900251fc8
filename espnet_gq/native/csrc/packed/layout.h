/* The layout of packed indices: the only place in C++ that knows it.
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
 */
#ifndef ESPNET_GQ_LAYOUT_H
#define ESPNET_GQ_LAYOUT_H

#include <stdint.h>

#include "sizes.h"

namespace gq {

enum {
    ROWS = 16,           /* of a stripe */
    COLS = 32,           /* of a block */
    GROUPS = 8,          /* of a block */
    GROUP_BYTES = 64,    /* of a plane of 8 bits */
    VALUES = ROWS * COLS /* of a block */
};

constexpr int64_t block_bytes(int bits) { return GROUP_BYTES * bits; }
constexpr int64_t stripe_bytes(int64_t cols, int bits) {
    return over(cols, COLS) * block_bytes(bits);
}
constexpr int64_t planes_bytes(int64_t rows, int64_t cols, int bits) {
    return over(rows, ROWS) * stripe_bytes(cols, bits);
}

/* Bits of an index that part P (8, 4, 2, 1) of a b-bit index has below it. */
constexpr int below(int bits, int part) { return bits & ~(2 * part - 1) & 15; }

/* Byte where the plane of a part begins in a block. */
constexpr int begin(int bits, int part) { return GROUP_BYTES * below(bits, part); }

/* Call f(byte, shift, part, below) for each part of the index at (row, col): it is in
 * the bits `shift` on of planes[byte], and has `below` bits of the index below it. */
template <class F>
inline void each_part(int64_t row, int64_t col, int64_t cols, int bits, F f) {
    int64_t block = row / ROWS * stripe_bytes(cols, bits) + col / COLS * block_bytes(bits);
    int64_t byte = 4 * (row % ROWS) + col % 4, group = col % COLS / 4;
    for (int part = 8; part >= 1; part /= 2) {
        if (!(bits & part)) continue;
        int64_t per_byte = 8 / part;
        f(block + begin(bits, part) + GROUP_BYTES * (group / per_byte) + byte,
          (int)(group % per_byte * part), part, below(bits, part));
    }
}

inline unsigned get_index(const uint8_t *planes, int64_t row, int64_t col, int64_t cols,
                          int bits) {
    unsigned index = 0;
    each_part(row, col, cols, bits, [&](int64_t byte, int shift, int part, int low) {
        index |= (planes[byte] >> shift & ((1u << part) - 1)) << low;
    });
    return index;
}

/* Into planes that hold index 0 there. */
inline void put_index(uint8_t *planes, int64_t row, int64_t col, int64_t cols, int bits,
                      unsigned index) {
    each_part(row, col, cols, bits, [&](int64_t byte, int shift, int part, int low) {
        planes[byte] |= (uint8_t)((index >> low & ((1u << part) - 1)) << shift);
    });
}

/* Number i of a stream: the bits i * bits to (i + 1) * bits - 1, least significant
 * first. No byte past its last bit is read. */
inline unsigned stream_index(const uint8_t *stream, int64_t i, int bits) {
    uint64_t bit = (uint64_t)i * (uint64_t)bits;
    const uint8_t *from = stream + bit / 8;
    unsigned shift = bit % 8, packed = from[0];
    if (shift + (unsigned)bits > 8) packed |= (unsigned)from[1] << 8;
    return packed >> shift & ((1u << bits) - 1);
}

}  // namespace gq

#endif
