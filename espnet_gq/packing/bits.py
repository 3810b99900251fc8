"""Streams of b-bit numbers.

Number i of a stream occupies the bits i*b to (i+1)*b - 1, least significant first, in
little-endian bytes; the last byte is filled up with zeros.
"""

import numpy as np


def packed_size(numel: int, bits: int) -> int:
    """Return the bytes that `numel` numbers of `bits` bits take."""
    return (numel * bits + 7) // 8


def pack_bits(values: np.ndarray, bits: int) -> np.ndarray:
    """Return the stream of uint8 values below 2^bits, as uint8."""
    planes = np.unpackbits(
        np.ascontiguousarray(values, dtype=np.uint8).reshape(-1, 1),
        axis=1,
        count=bits,
        bitorder="little",
    )
    return np.packbits(planes.reshape(-1), bitorder="little")


def unpack_bits(stream: np.ndarray, numel: int, bits: int) -> np.ndarray:
    """Return the `numel` values of a stream, as uint8.

    Raises:
        ValueError: If the stream has another length than `numel` values take.
    """
    if stream.size != packed_size(numel, bits):
        raise ValueError(
            f"a stream of {numel} {bits}-bit numbers has {packed_size(numel, bits)} "
            f"bytes, not {stream.size}"
        )
    planes = np.unpackbits(stream, count=numel * bits, bitorder="little")
    return np.packbits(planes.reshape(numel, bits), axis=1, bitorder="little")[:, 0]
