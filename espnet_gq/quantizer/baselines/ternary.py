"""Binary and ternary weights with a learned scale.

After "Towards One-bit ASR" (arXiv 2505.21245), whose 1-bit and 2-bit Conformers learn
a scale; the thresholds are those of the nearest level (for three levels s / 2 from 0),
the start is the scale of least squared error (for two levels s = <|w|>, as in XNOR-Net,
arXiv 1603.05279, equation 6), and the gradient of the weights passes straight through:

    w_hat = s q,   q = argmin |w - s q| over {-1, 1} or {-1, 0, 1}
    dL/ds = sum_i q_i dL/dw_hat_i,   dL/dw = dL/dw_hat

The gradient of ln s is multiplied by 1 / sqrt(N) as LSQ does.
"""

import torch

from espnet_gq.quantizer.assignment import hard_index
from espnet_gq.quantizer.base import Quantizer
from espnet_gq.quantizer.baselines.lsq import scaled_gradient
from espnet_gq.quantizer.baselines.stored import StoredCodebook


class TernaryQuantizer(Quantizer, StoredCodebook):
    """-s and s at 1 bit, -s, 0 and s at 2 bits.

    Args: see `Quantizer`.

    Raises:
        ValueError: At more than 2 bits.
    """

    def __init__(self, bits: int, *args, **kwargs):
        if bits > 2:
            raise ValueError(
                f"method ternary at {bits} bits; allowed: 1 (binary) and 2 (ternary)"
            )
        super().__init__(bits, *args, **kwargs)
        self.log_scale.requires_grad_(True)
        self._spare_decay(self.log_scale)

    @staticmethod
    def levels(bits: int) -> int:
        return bits + 1

    @staticmethod
    def default_granularity(bits: int) -> str:
        return "channel"

    def training_weights(self, w: torch.Tensor) -> torch.Tensor:
        rows, scale = self.divided(w.detach())
        c = self.codebook.to(rows.dtype)
        level = c[hard_index(rows / scale, c)]
        sharing = max(rows.shape[1], 1)
        log_scale = scaled_gradient(self.log_scale, sharing**-0.5)
        hard = level * log_scale.to(rows.dtype).exp().view(-1, 1)
        return hard.to(w.dtype).view(w.shape) + (w - w.detach())
