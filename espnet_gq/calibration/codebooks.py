"""The codebook of a weight, fitted to it alone."""

from typing import Any, Mapping

import torch

from espnet_gq.packing import StoredQuantizer
from espnet_gq.quantizer.function import hard_indices
from espnet_gq.quantizer.methods import create


@torch.no_grad()
def fit_codebook(
    w: torch.Tensor, options: Mapping[str, Any], gates: int = 1
) -> StoredQuantizer:
    """Return the codebook that quantizes a weight with little squared error.

    Args:
        w: The weight, any floating-point type; dimension 0 is the output channel.
        options: Those of `espnet_gq.nn.GQConfig.options`.
        gates: Gates stacked in dimension 0.

    Raises:
        ValueError: If w holds a value that is not finite.
    """
    quantizer = create(channels=len(w), gates=gates, **options).fitted_to(w.float())
    log_scale = quantizer.log_scale.detach().cpu()
    log_mu = getattr(quantizer, "log_mu", None)
    if log_mu is not None:
        return StoredQuantizer(quantizer.bits, log_scale, log_mu=log_mu.detach().cpu())
    centroids = quantizer.normalized_centroids().float().cpu()
    return StoredQuantizer(quantizer.bits, log_scale, centroids=centroids)


def nearest(w: torch.Tensor, stored: StoredQuantizer) -> torch.Tensor:
    """Return the number of the nearest centroid of each weight, uint8."""
    return hard_indices(w.float(), stored.log_scale, stored.codebook)


def weights(indices: torch.Tensor, stored: StoredQuantizer) -> torch.Tensor:
    """Return the float32 weights that indices of the shape of a weight stand for."""
    rows = stored.codebook[indices.reshape(stored.log_scale.numel(), -1).int()]
    return rows.mul_(stored.scale).view(indices.shape)


def relative_error(w: torch.Tensor, hard: torch.Tensor) -> float:
    """Return ||w - hard|| / ||w||, 0 where w is zero."""
    power = float(w.float().square().sum(dtype=torch.float64))
    error = float((w.float() - hard).square().sum(dtype=torch.float64))
    return (error / power) ** 0.5 if power else 0.0
