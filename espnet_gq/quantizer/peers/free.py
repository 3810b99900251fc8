"""Free centroids: GQ without the mu-law constraint, the control of it.

Every centroid is trained by itself, from the Lloyd-Max centroids on; the assignment and
its annealing are GQ's (`quantizer/assignment.py`).
"""

import torch
from torch import nn

from espnet_gq.quantizer import assignment
from espnet_gq.quantizer.function import SOFT
from espnet_gq.quantizer.general import AnnealedQuantizer
from espnet_gq.quantizer.peers.lloyd_max import FittedCodebook
from espnet_gq.quantizer.peers.lsq import scaled_gradient


class FreeQuantizer(AnnealedQuantizer, FittedCodebook):
    """Trained centroids (`codebook`, normalised), fixed scales.

    Args: see `AnnealedQuantizer`.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        start = self._buffers.pop("codebook")
        self.codebook = nn.Parameter(start)
        self.codebook._no_weight_decay = True

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
        if mode == SOFT:
            t = t.clamp(-assignment.OVERSHOOT, 1.0 + assignment.OVERSHOOT)
            p, _ = assignment.window(t, k, c.numel(), self.alpha)
            out = scale * (p * assignment.padded(c, k)).sum(0)
        else:
            at = t.detach()
            p = torch.sigmoid(self.alpha * (2.0 * at - 1.0))
            slope = 2.0 * self.alpha * p * (1.0 - p)
            slope = torch.where((at >= 0.0) & (at <= 1.0), slope, 0.0)
            index = assignment.hard_index(x.detach(), c.detach())
            out = scale * c[index] + slope * (rows - rows.detach())
        return out.to(w.dtype).view(w.shape)
