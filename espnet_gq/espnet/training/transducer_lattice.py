"""The forward-backward algorithm over the lattices of a transducer (arXiv 1211.3711).

The nodes of a lattice are (t, u): t frames read, u labels emitted. Nodes of a diagonal,
those with equal t + u, do not depend on each other. Values are float64 and stored by
diagonal in (T + U, B, U + 1), with node (t, u) of utterance b at [t + u, b, u].

On a CUDA device one launch of a Triton kernel computes all diagonals; elsewhere, and if
the kernel is unavailable, PyTorch computes them one by one.
"""

import functools
import logging
import math
from typing import List, Tuple

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # CPU builds of PyTorch have none
    triton = None

WIDEST = 1024
"""Most nodes per diagonal that the kernel supports."""


def nodes(diagonals: Tensor, b: int, frames: int, width: int) -> Tensor:
    """Return a view (T, width), indexed by (t, u), of diagonals (T + U, B, U + 1)."""
    _, batch, row = diagonals.shape
    return diagonals.as_strided(
        (frames, width), (batch * row, batch * row + 1), b * row
    )


def log_alphas(blanks: Tensor, emits: Tensor) -> Tensor:
    """Return log alpha of each node, the last diagonal included (T + U + 1, B, U + 1).

    alpha(t, u) = alpha(t - 1, u) blank(t - 1, u) + alpha(t, u - 1) emit(t, u - 1)

    Args:
        blanks, emits: Log probabilities of the arcs that leave each node (T + U, B,
            U + 1), -inf where there is none.
    """
    first = torch.full_like(blanks[0], -math.inf)
    first[:, 0] = 0
    return _walk(blanks, emits, first, reverse=False)


def log_betas(blanks: Tensor, emits: Tensor, counts: List[int]) -> Tensor:
    """Return log beta of each node, shaped as `log_alphas` returns log alpha.

    beta(t, u) = blank(t, u) beta(t + 1, u) + emit(t, u) beta(t, u + 1)
    """
    last = torch.full_like(blanks[0], -math.inf)
    last[range(len(counts)), counts] = 0
    return _walk(blanks, emits, last, reverse=True)


def arcs(
    blanks: Tensor, emits: Tensor, alphas: Tensor, scores: Tensor, counts: List[int]
) -> Tuple[Tensor, Tensor]:
    """Return the posterior probability of each blank arc and each label arc.

    Args:
        blanks, emits: See `log_alphas`.
        alphas: Result of `log_alphas`.
        scores: Log probability of the labels of each utterance (B,).
        counts: Labels of each utterance.
    """
    betas = log_betas(blanks, emits, counts)
    starts = alphas[:-1] - scores[:, None]
    stays = (starts + blanks).add_(betas[1:]).exp_()
    moves = starts.add_(emits)
    moves[..., :-1] += betas[1:, :, 1:]
    moves.exp_()
    moves[..., -1] = 0
    return stays, moves


def _walk(blanks: Tensor, emits: Tensor, begin: Tensor, reverse: bool) -> Tensor:
    kernel = (
        triton is not None
        and blanks.is_cuda
        and blanks.shape[-1] <= WIDEST
        and _right(blanks.device)
    )
    return (walk_kernel if kernel else walk_plain)(blanks, emits, begin, reverse)


def walk_plain(blanks: Tensor, emits: Tensor, begin: Tensor, reverse: bool) -> Tensor:
    """Return log alpha from the first diagonal on, or log beta from the last back."""
    out = blanks.new_full((len(blanks) + 1, *blanks.shape[1:]), -math.inf)
    out[-1 if reverse else 0] = begin
    for step in range(len(blanks)):
        if reverse:
            step = len(blanks) - 1 - step
            here, there = out[step + 1], out[step]
            moved = here[:, 1:] + emits[step, :, :-1]
            target = there[:, :-1]
        else:
            here, there = out[step], out[step + 1]
            moved = (here + emits[step])[:, :-1]
            target = there[:, 1:]
        torch.add(here, blanks[step], out=there)
        torch.logaddexp(target, moved, out=target)
    return out


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


def walk_kernel(blanks: Tensor, emits: Tensor, begin: Tensor, reverse: bool) -> Tensor:
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
def _right(device: torch.device) -> bool:
    """Compare the kernel with PyTorch once per device; warn where they differ."""
    numbers = torch.Generator().manual_seed(0)
    arcs = -torch.rand(2, 300, 4, 130, generator=numbers, dtype=torch.float64)
    blanks, emits = arcs.to(device)
    begin = torch.full_like(blanks[0], -math.inf)
    begin[:, 0] = begin[:, 129] = 0
    try:
        for reverse in (False, True):
            torch.testing.assert_close(
                walk_kernel(blanks, emits, begin, reverse),
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
