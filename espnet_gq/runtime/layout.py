"""The layout of packed indices, in files and in memory; the only owner of both.

In a file, the b-bit indices of a tensor are a *stream*: number i occupies the bits
i * b to (i + 1) * b - 1, least significant first, in little-endian bytes, and the last
byte is filled up with zeros.

In memory they are *planes*, which the kernels read (`native/csrc/packed/layout.h` has
the same layout in C++). A matrix is cut into stripes of 16 rows and these into blocks
of 32 columns. A block takes 64 b bytes: one plane for each of the parts of 8, 4, 2 and
1 bits that b is the sum of.
"""

import math
from typing import Iterator, Sequence, Tuple

import numpy as np
import torch

from espnet_gq.native import address, library
from espnet_gq.native.library import check
from espnet_gq.runtime.pages import empty_planes

ROWS, COLS = 16, 32
PART = 2**20
"""Numbers of a stream that are converted at a time; a multiple of 8."""


def code_bits(levels: int) -> int:
    """Return the bits of an index into `levels` centroids.

    Raises:
        ValueError: If they are not 2, 4, ..., 256.
    """
    bits = levels.bit_length() - 1
    if not 1 <= bits <= 8 or levels != 2**bits:
        raise ValueError(f"a codebook has {levels} centroids; allowed: 2, 4, ..., 256")
    return bits


def matrix_shape(shape: Sequence[int]) -> Tuple[int, int]:
    """Return rows and columns of a weight: dimension 0, and the product of the rest."""
    return (shape[0] if shape else 1), math.prod(shape[1:])


# --- streams --------------------------------------------------------------------------


def stream_size(numel: int, bits: int) -> int:
    """Return the bytes of a stream of `numel` numbers."""
    return (numel * bits + 7) // 8


def padding(size: int) -> int:
    """Return the zeros that follow `size` bytes of a tensor in a packed file."""
    return -size % 4


def file_size(numel: int, bits: int, side_values: int) -> int:
    """Return the bytes of a quantized tensor in a packed file, without its header.

    Args:
        numel: Number of weights.
        bits: Bit width.
        side_values: float32 values beside the stream: ln mu or centroids, and ln s.
    """
    size = 4 * side_values + stream_size(numel, bits)
    return size + padding(size)


def to_stream(values: np.ndarray, bits: int) -> np.ndarray:
    """Return the stream of uint8 values below 2^bits, as uint8."""
    values = np.ascontiguousarray(values, dtype=np.uint8).reshape(-1, 1)
    stream = np.empty(stream_size(len(values), bits), dtype=np.uint8)
    for first in range(0, len(values), PART):
        part = values[first : first + PART]
        flags = np.unpackbits(part, axis=1, count=bits, bitorder="little")
        at = first * bits // 8
        packed = np.packbits(flags.reshape(-1), bitorder="little")
        stream[at : at + len(packed)] = packed
    return stream


def from_stream(stream: np.ndarray, numel: int, bits: int) -> np.ndarray:
    """Return the `numel` values of a stream, as uint8.

    Raises:
        ValueError: If the stream is not uint8 of the length that `numel` values take.
    """
    _check_stream(stream, numel, bits)
    values = np.empty(numel, dtype=np.uint8)
    for first in range(0, numel, PART):
        count = min(PART, numel - first)
        part = stream[first * bits // 8 :][: stream_size(count, bits)]
        flags = np.unpackbits(part, count=count * bits, bitorder="little")
        packed = np.packbits(flags.reshape(count, bits), axis=1, bitorder="little")
        values[first : first + count] = packed[:, 0]
    return values


def _check_stream(stream: np.ndarray, numel: int, bits: int) -> None:
    size = stream_size(numel, bits)
    if stream.size != size or stream.dtype != np.uint8:
        raise ValueError(
            f"a stream of {numel} {bits}-bit numbers has {size} bytes, not "
            f"{stream.size} of {stream.dtype}"
        )


# --- planes ---------------------------------------------------------------------------


def _parts(bits: int) -> Iterator[Tuple[int, int]]:
    """Yield (bits, bits below) of the parts of an index, the widest (lowest) first."""
    below = 0
    for part in (8, 4, 2, 1):
        if bits & part:
            yield part, below
            below += part


def planes_size(rows: int, cols: int, bits: int) -> int:
    """Return the bytes of the planes of a matrix."""
    return -(-rows // ROWS) * -(-cols // COLS) * 64 * bits


def to_planes(index: torch.Tensor, bits: int) -> torch.Tensor:
    """Return the planes (bytes,) of indices (rows, cols); both uint8."""
    rows, cols = index.shape
    stripes, blocks = -(-rows // ROWS), -(-cols // COLS)
    padded = index.new_zeros(stripes * ROWS, blocks * COLS)
    padded[:rows, :cols] = index
    groups = padded.view(stripes, ROWS, blocks, 8, 4).permute(0, 2, 3, 1, 4)
    groups = groups.reshape(stripes, blocks, 8, 64)
    planes = []
    for part, below in _parts(bits):
        value = (groups >> below) & (2**part - 1)
        value = value.view(stripes, blocks, part, 8 // part, 64)
        plane = value[:, :, :, 0]
        for i in range(1, 8 // part):
            plane = plane | (value[:, :, :, i] << (part * i))
        planes.append(plane)
    return torch.cat(planes, 2).flatten()


def from_planes(planes: torch.Tensor, rows: int, cols: int, bits: int) -> torch.Tensor:
    """Return the indices (rows, cols) of planes (bytes,); both uint8."""
    stripes, blocks = -(-rows // ROWS), -(-cols // COLS)
    planes = planes.view(stripes, blocks, bits, 64)
    groups = planes.new_zeros(stripes, blocks, 8, 64)
    for part, below in _parts(bits):
        plane = planes[:, :, below : below + part]
        shifts = [(plane >> (part * i)) & (2**part - 1) for i in range(8 // part)]
        value = torch.stack(shifts, 3).view(stripes, blocks, 8, 64)
        groups |= value << below
    padded = groups.view(stripes, blocks, 8, ROWS, 4).permute(0, 3, 1, 2, 4)
    return padded.reshape(stripes * ROWS, blocks * COLS)[:rows, :cols].contiguous()


def stream_to_planes(
    stream: np.ndarray, rows: int, cols: int, bits: int
) -> torch.Tensor:
    """Return the planes (bytes,) of a stream of indices, row after row.

    Raises:
        ValueError: If the stream is not uint8 of the length that the matrix takes.
    """
    stream = np.ascontiguousarray(stream)
    _check_stream(stream, rows * cols, bits)
    kernels = library.loaded()
    if kernels is None:
        index = from_stream(stream, rows * cols, bits).reshape(rows, cols)
        return to_planes(torch.from_numpy(index), bits)
    size = planes_size(rows, cols, bits)
    planes = empty_planes(size)
    where = address(planes, torch.uint8, size, "the planes")
    check(kernels.gq_fill_planes(stream.ctypes.data, rows, cols, bits, where))
    return planes
