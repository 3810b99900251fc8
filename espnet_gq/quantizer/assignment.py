"""Backend: soft and hard assignment of weights to centroids, in plain PyTorch.

Every weight is placed on the codebook by its *index coordinate*: for x = w / s in the
interval [c_k, c_{k+1}), t = (x - c_k) / (c_{k+1} - c_k) and v = k + t, so that v counts
gaps. The distance of w to centroid j is (v - j)^2, the squared number of gaps between
them: the distance "in units of the local gap", continuous in w for every curvature.
Outside the outermost centroids the last gap is continued. Then

    p_j = softmax_j(-alpha (v - j)^2),      soft(w) = s * sum_j p_j c_j,

and for alpha -> infinity soft(w) is the nearest centroid.

Truncation. Only the four centroids k-1, k, k+1, k+2 enter. Those left out are at least
two gaps further than the nearest one plus its own distance, so their total probability
is at most

    epsilon(alpha) = 2 * sum_{m >= 2} exp(-alpha m^2)   <  2.1 exp(-4 alpha)  (alpha>=1)

and, all centroids lying in [-s, s], |soft - soft_exact| <= 2 s epsilon(alpha): 2.5e-5 s
at alpha = 3. The slope d soft/dv = 2 alpha Cov_p(j, c_j) s is within
`truncation_bound` of the exact one. Memory and time are O(numel) at every bit width.

It takes all weights, and is the reference for the other backends: `forward` and
`backward` have the same arguments and results in each.
"""

import math
from typing import Tuple

import torch

from espnet_gq.native.library import HARD, SOFT

WINDOW = 4
OVERSHOOT = 4.0
"""Gaps beyond the outermost centroid at which the coordinate stops growing; the slope
there is below 2 alpha exp(-9 alpha) and is taken as zero."""


def truncation_bound(alpha: float, slope: bool = False) -> float:
    """Bound on what the four-centroid window leaves out.

    Args:
        alpha: Inverse temperature, above 0.
        slope: Bound the error of d soft / dv instead of the error of soft.

    Returns:
        The bound in units of the scale s (value), or of s a gap (slope).
    """
    left_out = 2.0 * sum(math.exp(-alpha * m * m) for m in range(2, 60))
    if not slope:
        return 2.0 * left_out
    # Cov of a mixture: (1 - e) Cov_in + e Cov_out + e (1 - e) (dj) (dc). Inside the
    # window |Cov_in| <= 3/2; outside |j - nearest| <= m + 1; c has range 2.
    moment = 2.0 * sum((m + 1) * math.exp(-alpha * m * m) for m in range(2, 60))
    return 2.0 * alpha * (4.0 * moment + 5.5 * left_out)


def locate(x: torch.Tensor, c: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
    """Return interval k in 0..J-2 (int64) and position t of each x in it.

    Args:
        x: Normalised weights, any shape.
        c: Normalised centroids, (J,), ascending.
    """
    k = (torch.bucketize(x, c, right=True) - 1).clamp_(0, c.numel() - 2)
    lower = c[k]
    return k, (x - lower) / (c[k + 1] - lower)


def hard_index(x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """Return the index of the nearest centroid of each normalised weight (int64)."""
    k = (torch.bucketize(x, c, right=True) - 1).clamp_(0, c.numel() - 2)
    middle = 0.5 * (c[:-1] + c[1:])
    return k + (x >= middle[k])


def hard_forward(
    w: torch.Tensor, scale: torch.Tensor, inv_scale: torch.Tensor, c: torch.Tensor
) -> torch.Tensor:
    """Return s * c_nearest for w of shape (rows, cols) and scale (rows, 1) or (1, 1).

    A NaN stays a NaN: it must not turn into a centroid.
    """
    return torch.where(w == w, scale * c[hard_index(w * inv_scale, c)], w)


def window(t: torch.Tensor, k: torch.Tensor, levels: int, alpha: float):
    """Return normalised p of the centroids k-1..k+2, shape (4, *t.shape)."""
    offsets = torch.arange(-1, 3, device=t.device, dtype=t.dtype).view(
        4, *[1] * t.dim()
    )
    logits = -alpha * (t - offsets) ** 2
    inside = torch.stack([k > 0, k >= 0, k >= 0, k < levels - 2])
    return torch.softmax(logits.masked_fill(~inside, -math.inf), dim=0), offsets


def padded(c: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Return c of the centroids k-1..k+2 (0 where there is none), shape (4, ...)."""
    zero = c.new_zeros(1)
    padded = torch.cat([zero, c, zero])
    return torch.stack([padded[k + i] for i in range(4)])


def _coordinate(w, inv_scale, c):
    x = w * inv_scale
    k, t = locate(x, c)
    return x, k, t.clamp(-OVERSHOOT, 1.0 + OVERSHOOT)


def soft_forward(
    w: torch.Tensor,
    scale: torch.Tensor,
    inv_scale: torch.Tensor,
    c: torch.Tensor,
    alpha: float,
) -> torch.Tensor:
    """Return the soft weights.

    Args:
        w: Weights, (rows, cols).
        scale: s, (rows, 1) or (1, 1); inv_scale: 1 / s, same shape.
        c: Normalised centroids, (J,).
        alpha: Inverse temperature.
    """
    _, k, t = _coordinate(w, inv_scale, c)
    p, _ = window(t, k, c.numel(), alpha)
    return scale * (p * padded(c, k)).sum(0)


def _reduce(values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Sum over the weights that share one scale; float64 keeps long sums exact."""
    if scale.numel() == 1:
        return values.sum(dtype=torch.float64).to(values.dtype).view(1)
    return values.sum(dim=1, dtype=torch.float64).to(values.dtype)


def soft_backward(
    grad: torch.Tensor,
    w: torch.Tensor,
    scale: torch.Tensor,
    inv_scale: torch.Tensor,
    c: torch.Tensor,
    dc: torch.Tensor,
    alpha: float,
) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients for w, ln s and ln mu of the soft weights.

    With m = sum_j p_j c_j and slope = dm/dx = 2 alpha Cov_p(j, c_j) / (c_{k+1} - c_k):
    d soft/dw = slope; soft is homogeneous in (w, s), so d soft/d ln s = soft - w slope;
    ln mu acts through every centroid and through v at fixed x.
    """
    x, k, t = _coordinate(w, inv_scale, c)
    p, offsets = window(t, k, c.numel(), alpha)
    values = padded(c, k)
    m = (p * values).sum(0)
    covariance = (p * offsets * values).sum(0) - (p * offsets).sum(0) * m
    slope = 2.0 * alpha * covariance / (c[k + 1] - c[k])
    slope = torch.where((t > -OVERSHOOT) & (t < 1.0 + OVERSHOOT), slope, 0.0)
    d_mu = (p * padded(dc, k)).sum(0) - slope * ((1.0 - t) * dc[k] + t * dc[k + 1])
    return (
        grad * slope,
        _reduce(grad * scale * (m - x * slope), scale),
        (grad * scale * d_mu).sum(dtype=torch.float64).to(grad.dtype),
    )


def hard_slope(t: torch.Tensor, alpha: float) -> torch.Tensor:
    """Return the slope with which a hard pass trains weights at positions t.

    That of the two-centroid soft assignment at the distance d to the nearest centroid,
    in gaps: 2 alpha p (1 - p) with p = sigmoid(alpha (2d - 1)); zero beyond d = 1/2.
    The outermost cells are thus as wide outside as inside: at one bit, 4 of 10 Gaussian
    weights lie outside the centroids and would be stuck.
    """
    away = torch.where(t >= 0.5, 1.0 - t, t).abs()
    p = torch.sigmoid(alpha * (2.0 * away - 1.0))
    return torch.where(away <= 0.5, 2.0 * alpha * p * (1.0 - p), 0.0)


def hard_backward(
    grad: torch.Tensor,
    w: torch.Tensor,
    scale: torch.Tensor,
    inv_scale: torch.Tensor,
    c: torch.Tensor,
    dc: torch.Tensor,
    alpha: float,
) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return surrogate gradients for the hard forward pass.

    The weights get `hard_slope`; ln s and ln mu get their gradients through the
    selected centroid.
    """
    x = w * inv_scale
    k, t = locate(x, c)
    slope = hard_slope(t, alpha)
    index = hard_index(x, c)
    return (
        grad * slope,
        _reduce(grad * scale * c[index], scale),
        (grad * scale * dc[index]).sum(dtype=torch.float64).to(grad.dtype),
    )


def usable(w: torch.Tensor, c: torch.Tensor) -> bool:
    """Return whether this backend takes weights w and centroids c: it takes all."""
    return True


def forward(
    w: torch.Tensor,
    scale: torch.Tensor,
    inv_scale: torch.Tensor,
    c: torch.Tensor,
    mode: int,
    alpha: float = 1.0,
) -> torch.Tensor:
    """Return soft or hard weights.

    Args:
        w: Weights (rows, cols).
        scale: s, (rows, 1) or (1, 1), contiguous; inv_scale: 1 / s, same shape.
        c: Normalised centroids (levels,), ascending, contiguous.
        mode: SOFT or HARD.
        alpha: Inverse temperature of SOFT.
    """
    if mode == HARD:
        return hard_forward(w, scale, inv_scale, c)
    return soft_forward(w, scale, inv_scale, c, alpha)


def backward(
    grad: torch.Tensor,
    w: torch.Tensor,
    scale: torch.Tensor,
    inv_scale: torch.Tensor,
    c: torch.Tensor,
    dc: torch.Tensor,
    mode: int,
    alpha: float,
) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients for w, ln s (as many as scales) and ln mu ().

    Args:
        grad: Gradient for the result of `forward`, (rows, cols).
        w, scale, inv_scale, c: As in `forward`.
        dc: d c / d ln mu, (levels,).
        mode: SOFT: the gradient of the soft weights. HARD: `hard_slope`.
        alpha: Inverse temperature.
    """
    function = soft_backward if mode == SOFT else hard_backward
    return function(grad, w, scale, inv_scale, c, dc, alpha)
