/* The planes of a block, for every bit width. */
#ifndef ESPNET_GQ_PLANES_H
#define ESPNET_GQ_PLANES_H

namespace gq {

/* Bits of an index that part P (8, 4, 2, 1) of a b-bit index has below it. */
constexpr int below(int bits, int part) { return bits & ~(2 * part - 1) & 15; }

/* Byte where the plane of a part begins in a block. */
constexpr int begin(int bits, int part) { return 64 * below(bits, part); }

}  // namespace gq

#endif
