"""DKM: differentiable k-means (Cho et al., arXiv 2108.12659).

With the distances d_ij = |w_i - c_j|, k-means alternates between

    attention a_ij = softmax_j(-d_ij / tau),    c_j = sum_i a_ij w_i / sum_i a_ij

until the centroids converge, starting from those of the last step; training computes
with sum_j a_ij c_j. Here only the last iteration carries a gradient. Memory grows with
2^bits.

tau is `temperature` times the gap of equidistant centroids from -s to s. With several
scales w_i / s_i takes the place of w_i. Rows close to zero (such as the padding row of
an embedding) do not count in the centroids: the factor 1 / s_i would make their
gradient overflow.
"""

import logging
from typing import Optional, Tuple

import torch

from espnet_gq.quantizer.base import Quantizer
from espnet_gq.quantizer.baselines.lloyd import LloydMaxCodebook

LEAST_SCALE = 1e-3
"""Rows with less than this share of the largest scale do not count in the centroids."""


class DKMQuantizer(Quantizer, LloydMaxCodebook):
    """Centroids of differentiable k-means, soft in training, nearest in evaluation.

    Args:
        bits, channels, ...: See `Quantizer`.
        temperature: tau over the gap of equidistant centroids, constant.
        iterations: Largest number of iterations per step.
        tolerance: Convergence: largest move of a centroid, over the scale.
    """

    def __init__(
        self,
        *args,
        temperature: float = 0.1,
        iterations: int = 5,
        tolerance: float = 1e-4,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.temperature = temperature
        self.iterations = iterations
        self.tolerance = tolerance

    def fit(self, w: torch.Tensor) -> None:
        if w.numel() > 1 and bool((w == w.flatten()[0]).all()):
            logging.warning(
                f"method dkm: all {w.numel()} weights of a tensor are equal, and "
                "k-means keeps equal weights equal: they learn one value"
            )
        super().fit(w)

    @property
    def tau(self) -> float:
        """The temperature in units of the scale."""
        return self.temperature * 2.0 / (self.codebook.numel() - 1)

    def training_weights(self, w: torch.Tensor) -> torch.Tensor:
        rows, scale = self.divided(w)
        x, c = rows / scale, self.codebook.to(rows.dtype)
        mass = (scale >= LEAST_SCALE * scale.max()).to(x.dtype)
        with torch.no_grad():
            for _ in range(self.iterations - 1):
                before, c = c, iteration(x, c, self.tau, mass)[1]
                if (c - before).abs().max() <= self.tolerance:
                    break
        attention, c = iteration(x, c, self.tau, mass)
        if torch.is_grad_enabled():  # not where statistics look at it
            self.codebook.copy_(c.detach().sort().values)
        return (scale * (attention @ c)).to(w.dtype).view(w.shape)


def iteration(
    x: torch.Tensor, c: torch.Tensor, tau: float, mass: Optional[torch.Tensor] = None
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Return the attention of weights to centroids, and the new centroids.

    Args:
        x: Weights over their scales, any shape.
        c: Centroids (levels,).
        tau: Temperature.
        mass: How often each weight counts, shaped to broadcast with x; None: once.

    Returns:
        Attention, of x's shape and (levels,), and centroids (levels,).
    """
    attention = torch.softmax(-(x[..., None] - c).abs() / tau, -1)
    counted = attention if mass is None else attention * mass[..., None]
    counted = counted.flatten(0, -2)
    total = counted.sum(0)
    means = (counted * x.reshape(-1, 1)).sum(0) / total.clamp_min(1e-12)
    return attention, torch.where(total > 1e-6, means, c)
