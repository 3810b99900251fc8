"""Free centroids: GQ without the mu-law constraint, as a control.

Each centroid is a parameter, starting from the Lloyd-Max centroids; the assignment and
its annealing are GQ's (`quantizer/assignment.py`).
"""

import torch
from torch import nn

from espnet_gq.native.library import SOFT
from espnet_gq.quantizer import assignment
from espnet_gq.quantizer.baselines.lloyd import LloydMaxCodebook
from espnet_gq.quantizer.baselines.lsq import scaled_gradient
from espnet_gq.quantizer.general import AnnealedQuantizer


class FreeQuantizer(AnnealedQuantizer, LloydMaxCodebook):
    """Trained centroids (`codebook`, normalised), fixed scales.

    Args: see `AnnealedQuantizer`.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        codebook = nn.Parameter(self.codebook)
        del self.codebook  # the buffer
        self.codebook = codebook
        self._spare_decay(codebook)

    def normalized_centroids(self) -> torch.Tensor:
        return self.codebook.detach().sort().values

    def training_weights(self, w: torch.Tensor) -> torch.Tensor:
        return self._assigned(w, self.mode)

    def _soft(self, w: torch.Tensor) -> torch.Tensor:
        return self._assigned(w, SOFT)

    def _assigned(self, w: torch.Tensor, mode: int) -> torch.Tensor:
        rows, scale = self.divided(w)
        c = scaled_gradient(self.codebook, max(w.numel(), 1) ** -0.5)
        c = c.to(rows.dtype).sort().values
        x = rows / scale
        k, _ = assignment.locate(x.detach(), c.detach())
        width = (c[k + 1] - c[k]).clamp_min(1e-12)
        t = (x - c[k]) / width
        soft = scale * self._mixed(t, k, c) if mode == SOFT else None
        if soft is not None and self.slope_alpha is None:  # its own gradient
            return soft.to(w.dtype).view(w.shape)
        slope = assignment.hard_slope(t.detach(), self.slope_alpha or self.alpha)
        index = assignment.hard_index(x.detach(), c.detach())
        out = scale * c[index] + slope * (rows - rows.detach())
        if soft is not None:  # only its value
            out = out + (soft - out).detach()
        return out.to(w.dtype).view(w.shape)

    def _mixed(self, t: torch.Tensor, k: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        t = t.clamp(-assignment.OVERSHOOT, 1.0 + assignment.OVERSHOOT)
        p, _ = assignment.window(t, k, c.numel(), self.alpha)
        return (p * assignment.padded(c, k)).sum(0)
