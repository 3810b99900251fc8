"""The layout of packed indices in memory, in PyTorch. See `csrc/kernels.h`.

A matrix is cut into stripes of 16 rows and these into blocks of 32 columns. A block of
b-bit indices takes 64 b bytes: one plane for each of the parts of 8, 4, 2 and 1 bits
that b is the sum of.
"""

from typing import Iterator, Tuple

import torch

ROWS, COLS = 16, 32


def parts(bits: int) -> Iterator[Tuple[int, int]]:
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
    for part, below in parts(bits):
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
    for part, below in parts(bits):
        plane = planes[:, :, below : below + part]
        shifts = [(plane >> (part * i)) & (2**part - 1) for i in range(8 // part)]
        value = torch.stack(shifts, 3).view(stripes, blocks, 8, 64)
        groups |= value << below
    padded = groups.view(stripes, blocks, 8, ROWS, 4).permute(0, 3, 1, 2, 4)
    return padded.reshape(stripes * ROWS, blocks * COLS)[:rows, :cols].contiguous()
