"""The exact quantizer: the full softmax over all centroids, by autograd, in float64.

Written from the equations of `espnet_gq.quantizer.mulaw` and `assignment`, sharing no
code with them: what the truncated, fused and hand-differentiated forms are held to.
"""

import torch


def codebook(log_mu: torch.Tensor, bits: int) -> torch.Tensor:
    """Return c_j, differentiable in ln mu, (2^bits,)."""
    u = torch.linspace(-1, 1, 2**bits, dtype=torch.float64)
    mu = log_mu.double().exp()
    return u.sign() * ((1 + mu) ** u.abs() - 1) / mu


def soft(w, log_scale, log_mu, bits: int, alpha: float) -> torch.Tensor:
    """Return s * sum_j softmax_j(-alpha (v - j)^2) c_j for w of shape (rows, cols)."""
    c = codebook(log_mu, bits)
    scale = log_scale.exp().view(-1, 1)
    x = w / scale
    k = (x.detach()[..., None] >= c.detach()).sum(-1).sub(1).clamp(0, len(c) - 2)
    v = k + (x - c[k]) / (c[k + 1] - c[k])
    j = torch.arange(len(c), dtype=torch.float64)
    p = torch.softmax(-alpha * (v[..., None] - j) ** 2, dim=-1)
    return scale * (p * c).sum(-1)


def hard(w, log_scale, log_mu, bits: int) -> torch.Tensor:
    """Return the centroid at the smallest distance of each weight."""
    z = log_scale.exp().view(-1, 1, 1) * codebook(log_mu, bits)
    return z.expand(*w.shape, -1).gather(
        -1, (w[..., None] - z).abs().argmin(-1, keepdim=True)
    )[..., 0]
