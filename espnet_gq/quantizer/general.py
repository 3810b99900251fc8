"""The General Quantizer of one weight tensor (arXiv 2210.09188; our reconstruction)."""

import math
from typing import Optional

import torch
from torch import nn

from espnet_gq.native.library import HARD, SOFT
from espnet_gq.quantizer.annealing import Annealing
from espnet_gq.quantizer.base import Quantizer
from espnet_gq.quantizer.codebook import Codebook
from espnet_gq.quantizer.fit import fit, fit_scale, rows_and_peaks
from espnet_gq.quantizer.function import fake_quantize
from espnet_gq.quantizer.mulaw import MAX_LOG_MU, MIN_LOG_MU, codebook

SOFT_FROM_BITS = 4
"""From this width on the forward pass is soft and hardens; below, it is hard from the
start, which leaves no soft-to-hard gap."""
# First and last inverse temperature. The hard pass has no gap to close: its slope only
# has to reach the weights.
ALPHA = {SOFT: (3.0, 50.0), HARD: (1.0, 2.0)}
SLOPE_ALPHA = 1.5
"""Inverse temperature of the slope with which a soft pass trains the weights. Its own
gradient vanishes as it hardens: on the evidence grid, learning stopped three fifths
into the training, and a transducer at 5 and 4 bits ended at a validation loss of 1.15
and 1.08 instead of 0.99 and 0.95, a Conformer at 0.17 and 0.18 instead of 0.16 and
0.14."""
FORWARDS = ("auto", "soft", "hard")


class AnnealedQuantizer(Quantizer):
    """A quantizer whose assignment is soft and is annealed, or hard with a soft slope.

    In training, weights pass through a soft assignment whose temperature is annealed
    (or, at few bits, through a hard one). They are trained with the slope of a soft
    assignment that stays soft.

    Args:
        bits, channels, granularity, annealing, every, gates, codebook: See `Quantizer`.
            granularity None: "channel" below SOFT_FROM_BITS bits, else "tensor".
        forward: "soft", "hard" or "auto" (by bit width).
        own_gradient: Train with the gradient of the soft forward pass itself, where the
            forward pass is soft.
    """

    def __init__(
        self,
        bits: int,
        channels: int,
        granularity: Optional[str] = None,
        forward: str = "auto",
        annealing: Annealing = Annealing(),
        every: int = 1,
        gates: int = 1,
        *,
        own_gradient: bool = False,
        **codebook,
    ):
        if forward == "auto":
            forward = "soft" if bits >= SOFT_FROM_BITS else "hard"
        mode = SOFT if forward == "soft" else HARD
        annealing = annealing.resolve(*ALPHA[mode])
        super().__init__(
            bits, channels, granularity, annealing, every, gates, **codebook
        )
        self.mode = mode
        self.slope_alpha = None if own_gradient or mode == HARD else SLOPE_ALPHA
        self._spare_decay(self.log_scale)

    @staticmethod
    def default_granularity(bits: int) -> str:
        return "tensor" if bits >= SOFT_FROM_BITS else "channel"

    def extra_repr(self) -> str:
        a = self.annealing
        kind = "soft" if self.mode == SOFT else "hard"
        return (
            f"{super().extra_repr()}, forward={kind}, "
            f"alpha={a.start:g}..{a.end:g} {a.curve}"
        )


class MuLawCodebook(Codebook):
    """Mu-law centroids from a curvature mu: `log_mu` (1,) in the state dict.

    Args:
        *args, **kwargs: See `Codebook`.
        mu: Curvature to begin with. None: the one of least squared error.
        train_mu: Whether the curvature is trained.
        fit: Whether the scale begins at least squared error, or at max|w|.

    Raises:
        ValueError: If mu is out of range, or fit is False without mu.
    """

    def __init__(
        self,
        *args,
        mu: Optional[float] = None,
        train_mu: bool = True,
        fit: bool = True,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        if mu is not None and not MIN_LOG_MU <= math.log(max(mu, 1e-9)) <= MAX_LOG_MU:
            raise ValueError(
                f"mu is {mu:g}; allowed: {math.exp(MIN_LOG_MU):.1g} to "
                f"{math.floor(math.exp(MAX_LOG_MU))}"
            )
        if mu is None and not fit:
            raise ValueError("fit is false without mu; allowed: {fit: false, mu: 255}")
        self.mu = mu
        self.fits_scale = fit
        log_mu = torch.zeros(1, dtype=torch.float32, device="cpu")
        self.log_mu = nn.Parameter(log_mu, requires_grad=train_mu)
        self._spare_decay(self.log_mu)

    def _fit(self, w: torch.Tensor) -> None:
        scales = self.log_scale.numel()
        if self.mu is None:
            log_scale, log_mu = fit(w, self.bits, scales)
            self.log_scale.copy_(log_scale)
            self.log_mu.copy_(log_mu)
            return
        self.log_mu.fill_(math.log(self.mu))
        if self.fits_scale:
            self.log_scale.copy_(fit_scale(w, self.normalized_centroids(), scales))
        else:
            self.log_scale.copy_(rows_and_peaks(w, scales)[1][:, 0].log())

    def normalized_centroids(self) -> torch.Tensor:
        return codebook(self.log_mu, self.bits, torch.float64)[0]


class GeneralQuantizer(AnnealedQuantizer, MuLawCodebook):
    """Mu-law centroids whose scale and curvature are trained, annealed assignment.

    Args: see `AnnealedQuantizer` and `MuLawCodebook`.
    """

    def training_weights(self, w: torch.Tensor) -> torch.Tensor:
        # LSQ (arXiv 1902.08153, section 2.2): the gradient of a quantizer's parameter
        # is a sum over many weights and would dominate the norm of the whole gradient.
        numel = max(w.numel(), 1)
        factors = ((self.log_scale.numel() / numel) ** 0.5, numel**-0.5)
        return fake_quantize(
            *(w, self.log_scale, self.log_mu, self.bits, self.mode, self.alpha),
            *(factors, self.slope_alpha),
        )

    def _soft(self, w: torch.Tensor) -> torch.Tensor:
        return fake_quantize(
            w, self.log_scale, self.log_mu, self.bits, SOFT, self.alpha
        )
