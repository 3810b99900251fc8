"""The mu-law codebook: J = 2^b centroids from a scale and a curvature.

Our reconstruction of the mu-law constrained space of GQ (arXiv 2210.09188). With the
uniform grid u_j in [-1, 1], j = 0..J-1, the normalised centroids are

    c_j(mu) = sgn(u_j) * ((1 + mu)^|u_j| - 1) / mu,      z_j = s * c_j(mu),

with scale s > 0 and curvature mu > 0; mu -> 0 is the uniform quantizer and J = 2 gives
-s and +s whatever mu is. Both are trained through their logarithms, which keeps them
positive and makes a learning rate mean a relative change.
"""

import functools
from typing import Tuple

import torch

LOG_SCALES = (-80.0, 88.0)
"""Least and most ln s: s and 1 / s are ordinary float32 numbers."""
MIN_LOG_MU = -7.0
"""Below mu = e^-7 the codebook is uniform to within 0.03% of a gap."""
MAX_LOG_MU = 9.0
"""mu = e^9 puts half of the levels within 1% of the scale."""


@functools.lru_cache(maxsize=None)
def _grid(bits: int, device: torch.device) -> Tuple[torch.Tensor, torch.Tensor]:
    """Return sgn(u_j) and |u_j| of the 2^bits equidistant points u_j of [-1, 1]."""
    u = torch.linspace(-1.0, 1.0, 2**bits, dtype=torch.float64, device=device)
    return u.sign(), u.abs()


def codebook(
    log_mu: torch.Tensor, bits: int, dtype: torch.dtype = torch.float32
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Return the normalised centroids and their derivative.

    Args:
        log_mu: ln(mu), one element. Clamped to [MIN_LOG_MU, MAX_LOG_MU].
        bits: Bit width b, 1 to 8.
        dtype: Type of the result; the mathematics runs in float64.

    Returns:
        c of shape (2^b,), ascending in [-1, 1], and dc/d(ln mu) of the same shape.
    """
    sign, magnitude = _grid(bits, log_mu.device)
    mu = log_mu.detach().double().clamp(MIN_LOG_MU, MAX_LOG_MU).exp()
    grown = torch.expm1(magnitude * torch.log1p(mu))
    c = grown / mu
    # mu dc/dmu; it is 0 at |u| = 1, where c is 1 whatever mu is.
    dc = magnitude * (grown + 1.0) / (1.0 + mu) - c
    return (sign * c).to(dtype), (sign * dc).to(dtype)
