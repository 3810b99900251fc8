"""A codebook whose normalised centroids are kept as they are."""

import torch

from espnet_gq.quantizer.codebook import Codebook
from espnet_gq.quantizer.fit import fit_scale


class StoredCodebook(Codebook):
    """Keeps c in the state dict as `codebook` (levels,), which a method may train.

    The centroids begin equidistant from -1 to 1, the scales at least squared error.

    Args: see `Codebook`.
    """

    codebook: torch.Tensor

    def __init__(self, bits: int, *args, **kwargs):
        super().__init__(bits, *args, **kwargs)
        levels = self.levels(bits)
        grid = torch.linspace(-1.0, 1.0, levels, dtype=torch.float32, device="cpu")
        self.register_buffer("codebook", grid)
        self.log_scale.requires_grad_(False)

    @staticmethod
    def levels(bits: int) -> int:
        """Return the number of centroids."""
        return 2**bits

    def _fit(self, w: torch.Tensor) -> None:
        scales = self.log_scale.numel()
        self.log_scale.copy_(fit_scale(w, self.codebook, scales))

    def normalized_centroids(self) -> torch.Tensor:
        return self.codebook.detach()

    def divided(self, w: torch.Tensor):
        """Return w, one row per scale, and s (scales, 1); float32 or float64."""
        rows = w.reshape(self.log_scale.numel(), -1)
        rows = rows if rows.dtype == torch.float64 else rows.float()
        return rows, self.scale(rows.dtype)
