"""The forward-backward algorithm over the lattices of a transducer (arXiv 1211.3711).

The nodes of a lattice are (t, u): t frames read, u labels emitted. Nodes of a diagonal,
those with equal t + u, do not depend on each other. Values are float64 and stored by
diagonal in (T + U, B, U + 1), with node (t, u) of utterance b at [t + u, b, u].

On a CUDA device one launch of a Triton kernel computes all diagonals; elsewhere, and if
the kernel is unavailable, PyTorch computes them one by one.
"""

import math
from typing import List, Tuple

import torch
from torch import Tensor


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
    if blanks.is_cuda:
        from espnet_gq.espnet.training import transducer_kernel  # loads Triton

        if transducer_kernel.usable(blanks):
            return transducer_kernel.walk(blanks, emits, begin, reverse)
    return walk_plain(blanks, emits, begin, reverse)


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
