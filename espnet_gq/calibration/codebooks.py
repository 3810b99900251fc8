"""The codebook of a weight, fitted to it alone."""

from typing import Any, Mapping

import torch

from espnet_gq.packing import StoredQuantizer
from espnet_gq.packing.writer import BLOCK, blocks, centroids
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
    rows = w.reshape(stored.log_scale.numel(), -1)
    found = torch.empty(rows.shape, dtype=torch.uint8, device=w.device)
    for at in blocks(rows.shape):
        log_scale = stored.log_scale[at[0]]
        found[at] = hard_indices(rows[at].float(), log_scale, stored.codebook)
    return found.view(w.shape)


def weights(indices: torch.Tensor, stored: StoredQuantizer) -> torch.Tensor:
    """Return the float32 weights that indices of the shape of a weight stand for."""
    return centroids(indices, stored.codebook, stored.scale)


def relative_error(w: torch.Tensor, hard: torch.Tensor) -> float:
    """Return ||w - hard|| / ||w||, 0 where w is zero."""
    power = error = 0.0
    for a, b in zip(w.reshape(-1).split(BLOCK), hard.reshape(-1).split(BLOCK)):
        power += float(a.double().square().sum())
        error += float((a.double() - b).square().sum())
    return (error / power) ** 0.5 if power else 0.0
