"""The walk through a transducer's lattices (`transducer_lattice`) as a Triton kernel.

Importing this module loads Triton, where there is one.
"""

import functools
import logging
import math

import torch
from torch import Tensor

from espnet_gq.espnet.training.transducer_lattice import walk_plain

try:
    import triton
    import triton.language as tl
except ImportError:  # CPU builds of PyTorch have none
    triton = None

WIDEST = 1024
"""Most nodes per diagonal that the kernel supports."""


def usable(blanks: Tensor) -> bool:
    """Return whether the kernel takes lattices (diagonals, batch, nodes)."""
    return (
        triton is not None
        and blanks.is_cuda
        and blanks.shape[-1] <= WIDEST
        and is_right(blanks.device)
    )


if triton is not None:

    @triton.jit(do_not_specialize=["steps", "stride", "width"])
    def _walk_kernel(
        blanks_ptr,
        emits_ptr,
        out_ptr,
        steps,
        stride,
        width,
        REVERSE: tl.constexpr,
        SIZE: tl.constexpr,
    ):
        """One program per utterance; the first (last) diagonal of out is given."""
        u = tl.arange(0, SIZE)
        at = tl.program_id(0) * width + u
        inside = u < width
        # An arc of a label comes from (goes to) the neighbour of this node.
        toward: tl.constexpr = 1 if REVERSE else -1
        beside = inside & (u + toward >= 0) & (u + toward < width)
        emit_at = at if REVERSE else at - 1
        none = float("-inf")
        stride = stride.to(tl.int64)
        start = steps * stride if REVERSE else 0 * stride
        value = tl.load(out_ptr + start + at, mask=inside, other=none)
        for i in range(steps):
            d = steps - 1 - i if REVERSE else i
            here = (d + 1 if REVERSE else d) * stride
            there = (d if REVERSE else d + 1) * stride
            blank = tl.load(blanks_ptr + d * stride + at, mask=inside, other=none)
            emit = tl.load(emits_ptr + d * stride + emit_at, mask=beside, other=none)
            moved = tl.load(out_ptr + here + at + toward, mask=beside, other=none)
            moved += emit
            stayed = value + blank
            high = tl.maximum(stayed, moved)
            low = tl.minimum(stayed, moved)
            value = high + tl.log(1.0 + tl.exp(low - high))
            value = tl.where(high == none, high, value)  # -inf - -inf is NaN
            both = stayed + moved
            value = tl.where(both == both, value, both)  # high and low lose a NaN
            tl.store(out_ptr + there + at, value, mask=inside)
            tl.debug_barrier()  # neighbours read it next


def walk(blanks: Tensor, emits: Tensor, begin: Tensor, reverse: bool) -> Tensor:
    """Compute what `walk_plain` does in one launch."""
    blanks, emits = blanks.contiguous(), emits.contiguous()
    steps, batch, width = blanks.shape
    out = blanks.new_empty((steps + 1, batch, width))
    out[-1 if reverse else 0] = begin
    size = triton.next_power_of_2(width)
    with torch.cuda.device_of(blanks):
        _walk_kernel[(batch,)](
            *(blanks, emits, out, steps, batch * width, width),
            REVERSE=reverse,
            SIZE=size,
            num_warps=min(max(size // 32, 1), 8),
            num_stages=1,  # no load may be moved before the barrier
        )
    return out


@functools.lru_cache(maxsize=None)
def is_right(device: torch.device) -> bool:
    """Compare the kernel with PyTorch once per device; warn where they differ."""
    numbers = torch.Generator().manual_seed(0)
    arcs = -torch.rand(2, 300, 4, 130, generator=numbers, dtype=torch.float64)
    blanks, emits = arcs.to(device)
    begin = torch.full_like(blanks[0], -math.inf)
    begin[:, 0] = begin[:, 129] = 0
    try:
        for reverse in (False, True):
            torch.testing.assert_close(
                walk(blanks, emits, begin, reverse),
                walk_plain(blanks, emits, begin, reverse),
            )
        return True
    except Exception as e:
        logging.warning(
            "espnet_gq: the CUDA lattice of the transducer loss cannot be used "
            f"({type(e).__name__}: {str(e).splitlines()[0]}); plain PyTorch operations "
            "are used instead (same results, slower)."
        )
        return False
