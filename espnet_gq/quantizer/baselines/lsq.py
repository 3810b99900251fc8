"""LSQ: learned step size quantization (Esser et al., arXiv 1902.08153).

Equations 1 and 2, with Qn = 2^(b-1) and Qp = 2^(b-1) - 1:

    v_bar = round(clip(v / s, -Qn, Qp)),    v_hat = v_bar s

Equation 3, the gradient of the step: -v/s + round(v/s) where -Qn < v/s < Qp, else -Qn
or Qp; equation 5, that of the weight: 1 inside, 0 outside. The step's gradient is
multiplied by 1 / sqrt(N Qp), and it starts at 2 <|v|> / sqrt(Qp) (section 2.2 and 2.1).
Here s is trained through ln s, which keeps it positive.
"""

import torch

from espnet_gq.quantizer.base import Quantizer
from espnet_gq.quantizer.baselines.stored import StoredCodebook
from espnet_gq.quantizer.fit import MIN_SCALE, rows_and_peaks


def scaled_gradient(x: torch.Tensor, factor: float) -> torch.Tensor:
    """Return x, with its gradient multiplied by a factor."""
    return x * factor + (x * (1.0 - factor)).detach()


class LSQuantizer(Quantizer, StoredCodebook):
    """Integers from -2^(bits-1) to 2^(bits-1) - 1 times a trained step s.

    Args: see `Quantizer`.

    Raises:
        ValueError: At 1 bit, where the levels are -s and 0.
    """

    def __init__(self, bits: int, *args, **kwargs):
        if bits < 2:
            raise ValueError(
                "method lsq at 1 bit has no positive level; allowed: 2 to 8 bits "
                "(method ternary is binary at 1 bit)"
            )
        super().__init__(bits, *args, **kwargs)
        self.log_scale.requires_grad_(True)
        self._spare_decay(self.log_scale)
        half = 2 ** (bits - 1)
        self.codebook.copy_(torch.arange(-half, half, device="cpu"))

    @property
    def bounds(self):
        """Qn and Qp."""
        return -float(self.codebook[0]), float(self.codebook[-1])

    def _fit(self, w: torch.Tensor) -> None:
        rows, _ = rows_and_peaks(w, self.log_scale.numel())
        mean = rows.abs().mean(1) if rows.numel() else rows.new_ones(len(rows))
        step = 2.0 * mean / self.bounds[1] ** 0.5
        self.log_scale.copy_(step.clamp_min(MIN_SCALE).log())

    def training_weights(self, w: torch.Tensor) -> torch.Tensor:
        rows, _ = self.divided(w)
        qn, qp = self.bounds
        sharing = max(rows.shape[1], 1)
        log_scale = scaled_gradient(self.log_scale, (sharing * qp) ** -0.5)
        step = log_scale.to(rows.dtype).exp().view(-1, 1)
        clipped = (rows / step).clamp(-qn, qp)
        # The nearest level, the upper one at a tie, as in evaluation.
        rounded = clipped + ((clipped + 0.5).floor().clamp(-qn, qp) - clipped).detach()
        return (rounded * step).to(w.dtype).view(w.shape)
