"""Initial scale and curvature: a joint search for least squared error.

Starting from s = max|w| instead costs points of word error rate at 2 bits that training
does not recover.
"""

import math
from typing import Sequence, Tuple

import torch

from espnet_gq.quantizer.assignment import hard_index
from espnet_gq.quantizer.function import hard_quantize
from espnet_gq.quantizer.mulaw import codebook

RATIOS = torch.logspace(-1, 0, 25, dtype=torch.float64, device="cpu")
CURVATURES = torch.logspace(
    -1.523, 2.407, 14, dtype=torch.float64, device="cpu"
)  # 0.03 to 255
MIN_SCALE = 1e-30
LARGE = 2**16
"""Tensors with more weights are fitted in float32, and searched on a sample."""
SAMPLE = 2**16
CHUNK = 2**18
REFINEMENTS = 4


def _search(x: torch.Tensor, codebooks: Sequence[torch.Tensor]) -> Tuple[float, int]:
    """Return the s / max|w| and the number of the codebook of least squared error.

    Args:
        x: All weights over their peak, flat, float64.
        codebooks: Normalised centroids, ascending, float64.

    The weights between two decision thresholds share a centroid z: their error is
    n z^2 - 2 z sum(x) + sum(x^2), from counts and sums of the sorted weights.
    """
    x = x.sort().values
    sums = torch.cat([x.new_zeros(1), x.cumsum(0)])
    best = (float("inf"), 1.0, 0)
    for number, c in enumerate(codebooks):
        z = RATIOS[:, None] * c
        edges = torch.searchsorted(x, 0.5 * (z[:, :-1] + z[:, 1:]))
        edges = torch.nn.functional.pad(edges, (1, 0))
        edges = torch.nn.functional.pad(edges, (0, 1), value=x.numel())
        errors = (z.square() * edges.diff() - 2 * z * sums[edges].diff()).sum(1)
        error, index = errors.min(0)
        best = min(best, (float(error), float(RATIOS[index]), number))
    return best[1:]


def _refine(w: torch.Tensor, scale: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """Return scales (rows, 1): four rounds of assignment and least squares."""
    for _ in range(REFINEMENTS):
        z = c[hard_index(w / scale, c)]
        shape = (scale.shape[0], -1)
        numerator = (w * z).reshape(shape).sum(1)
        better = numerator / z.square().reshape(shape).sum(1).clamp_min(1e-300)
        better = torch.where(better > 0, better, scale[:, 0])
        scale = better.clamp_min(MIN_SCALE)[:, None]
    return scale


def _fit_scales(
    w: torch.Tensor, codebooks: Sequence[torch.Tensor], scales: int
) -> Tuple[torch.Tensor, int]:
    """Return ln s (scales,) and the number of the codebook.

    Raises:
        ValueError: If w holds a value that is not finite.
    """
    if w.numel() > LARGE:
        return _fit_large(w, codebooks, scales)
    rows, peak = rows_and_peaks(w, scales)
    ratio, number = 1.0, 0
    if codebooks[0].numel() > 2:
        ratio, number = _search((rows / peak).flatten(), codebooks)
    scale = peak * ratio
    if rows.numel():
        scale = _refine(rows, scale, codebooks[number])
    return scale[:, 0].log().float().to(w.device), number


def _fit_large(
    w: torch.Tensor, codebooks: Sequence[torch.Tensor], scales: int
) -> Tuple[torch.Tensor, int]:
    """Return what `_fit_scales` does, of a tensor that is too large for float64.

    The search sees SAMPLE weights, evenly spread over rows and columns; the scales are
    refined on all of them, some rows at a time.
    """
    if not torch.isfinite(w).all():
        raise ValueError("the weights hold NaN or infinite values")
    rows = w.detach().reshape(scales, -1).cpu()
    peak = torch.stack([row.abs().amax() for row in rows]).double()
    peak = peak.clamp_min(MIN_SCALE)[:, None]
    ratio, number = 1.0, 0
    if codebooks[0].numel() > 2:
        step = max(1, rows.numel() // SAMPLE)
        while math.gcd(step, rows.shape[1]) > 1:  # else whole columns are left out
            step += 1
        at = torch.arange(0, rows.numel(), step)
        sample = rows.flatten()[at].double() / peak[at // rows.shape[1], 0]
        ratio, number = _search(sample, codebooks)
    scale, c = peak * ratio, codebooks[number].float()
    chunk = max(1, CHUNK // rows.shape[1])
    for first in range(0, scales, chunk):
        part = rows[first : first + chunk].float()
        s = scale[first : first + chunk]
        for _ in range(REFINEMENTS):
            z = hard_quantize(part, s[:, 0].log().float(), c)
            numerator = (part * z).sum(1, dtype=torch.float64)[:, None]
            power = z.square().sum(1, dtype=torch.float64)[:, None]
            better = s * numerator / power.clamp_min(1e-300)
            s.copy_(torch.where(better > 0, better, s).clamp_min(MIN_SCALE))
    return scale[:, 0].log().float().to(w.device), number


def rows_and_peaks(w: torch.Tensor, scales: int) -> Tuple[torch.Tensor, torch.Tensor]:
    """Return the weights, one row per scale, and their peaks (scales, 1), float64.

    Raises:
        ValueError: If w holds a value that is not finite.
    """
    if not torch.isfinite(w).all():
        raise ValueError("the weights hold NaN or infinite values")
    rows = w.detach().reshape(scales, w.numel() // scales).cpu().double()
    peak = rows.new_ones(scales, 1)
    if rows.numel():
        peak = rows.abs().amax(dim=1, keepdim=True)
    return rows, peak.clamp_min(MIN_SCALE)


@torch.no_grad()
def fit_scale(w: torch.Tensor, c: torch.Tensor, scales: int = 1) -> torch.Tensor:
    """Return ln s (scales,) that quantizes w to s * c with little squared error.

    Args:
        w: Weights, any shape; dimension 0 is the output channel.
        c: Normalised centroids, ascending.
        scales: Number of scales, each for an equal part of dimension 0.

    Raises:
        ValueError: If w holds a value that is not finite.
    """
    return _fit_scales(w, [c.detach().cpu().double()], scales)[0]


@torch.no_grad()
def fit(
    w: torch.Tensor, bits: int, scales: int = 1
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Return ln s and ln mu that quantize w with little squared error.

    s / max|w| is searched from 0.1 to 1 jointly with mu from 0.03 to 255, then s is
    refined by least squares given the assignment (at 1 bit this is s = mean|w|).
    Several scales share one ratio and one mu before refinement.

    Args:
        w: Weights, any shape; dimension 0 is the output channel.
        bits: Bit width, 1 to 8.
        scales: Number of scales, each for an equal part of dimension 0.

    Returns:
        ln s of shape (scales,) and ln mu of shape (1,), float32, on the device
        of w.

    Raises:
        ValueError: If w holds a value that is not finite.
    """
    log_mus = (
        CURVATURES.log()
        if bits > 1
        else torch.zeros(1, dtype=torch.float64, device="cpu")
    )
    codebooks = [codebook(m.view(1), bits, torch.float64)[0] for m in log_mus]
    log_scale, number = _fit_scales(w, codebooks, scales)
    return log_scale, log_mus[number].view(1).float().to(w.device)
