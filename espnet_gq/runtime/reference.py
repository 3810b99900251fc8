"""The packed products in PyTorch operations: slow, on any device; the tests compare the
kernels with them."""

import math
from typing import Optional, Tuple

import torch


def codes(codebook: torch.Tensor) -> Tuple[torch.Tensor, float]:
    """Return a codebook rounded to 8 bits, and the unit it is rounded to.

    Args:
        codebook: Centroids (2^b,).

    Returns:
        int8 codes (2^b,) in [-127, 127], and the unit: c is about unit * codes, within
        unit / 2. Where a centroid is not finite, the unit is NaN.
    """
    largest = float(codebook.abs().max())
    if not math.isfinite(largest):
        return torch.zeros_like(codebook, dtype=torch.int8), math.nan
    unit = largest / 127 if largest > 0 else 1.0
    return torch.round(codebook.double() / unit).to(torch.int8), unit


def _by_row(scale: torch.Tensor, rows: int) -> torch.Tensor:
    scale = scale.flatten()
    if not scale.numel() or rows % scale.numel():
        raise ValueError(f"{scale.numel()} scales do not divide {rows} rows")
    return scale.repeat_interleave(rows // scale.numel())


def dense(
    index: torch.Tensor, codebook: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """Return s * c[index] for indices (rows, cols)."""
    return _by_row(scale, index.shape[0])[:, None] * codebook.flatten()[index.long()]


def round_activations(x: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
    """Round each row of activations to 8 bits.

    Args:
        x: (m, cols).

    Returns:
        Integers in [-127, 127] (m, cols), and the unit of each row (m, 1): x is about
        unit * integers, within unit / 2. The unit of a row that is not finite is NaN.
    """
    largest = x.abs().amax(1, keepdim=True) if x.shape[1] else x.new_zeros(len(x), 1)
    finite = largest < torch.inf
    counts = finite & (largest > 7.5e-37)
    inverse = torch.where(counts, 127.0 / largest, torch.zeros_like(largest))
    unit = torch.where(counts, largest / 127.0, torch.zeros_like(largest))
    unit = torch.where(finite, unit, torch.full_like(unit, torch.nan))
    return torch.round(torch.where(finite, x, torch.zeros_like(x)) * inverse), unit


def int8_linear(
    x: torch.Tensor,
    index: torch.Tensor,
    codebook: torch.Tensor,
    scale: torch.Tensor,
    bias: Optional[torch.Tensor],
) -> torch.Tensor:
    """Return the product with rounded activations and codes, (..., rows).

    The sums are exact: integers in float64.
    """
    code, unit = codes(codebook.flatten())
    q, x_unit = round_activations(
        x.reshape(math.prod(x.shape[:-1]), x.shape[-1]).float()
    )
    sums = (q.double() @ code[index.long()].double().t()).float()
    out = sums * (x_unit * unit * _by_row(scale, index.shape[0]))
    if bias is not None:
        out = out + bias
    return out.to(x.dtype).view(*x.shape[:-1], index.shape[0])
