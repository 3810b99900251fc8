"""The General Quantizer of one weight tensor (arXiv 2210.09188; our reconstruction)."""

import logging
from typing import Dict, Optional

import torch
from torch import nn

from espnet_gq.quantizer.annealing import Annealing
from espnet_gq.quantizer.fit import fit
from espnet_gq.quantizer.function import (
    HARD,
    SOFT,
    fake_quantize,
    hard_indices,
    hard_quantize,
    scale_pair,
)
from espnet_gq.quantizer.mulaw import codebook

SOFT_FROM_BITS = 4
"""From this width on the forward pass is soft; below, a soft pass leaves too large a
soft-to-hard gap and its gradient dies, so the forward pass is hard and the backward
pass takes the slope of the soft assignment."""
SOFT_ALPHA = (3.0, 50.0)
HARD_ALPHA = (2.0, 4.0)
STATISTICS_SAMPLE = 2**17
GRANULARITIES = ("tensor", "gate", "channel")
FORWARDS = ("auto", "soft", "hard")


class GeneralQuantizer(nn.Module):
    """Mu-law centroids with trained scale and curvature for one weight tensor.

    In training, weights pass through a soft assignment whose temperature is annealed
    (or, at few bits, a hard one with the soft slope as its gradient); in evaluation
    every weight is its nearest centroid.

    Scale and curvature are fitted to the weights at first use, so that a float
    checkpoint may be loaded, or the weights initialised anew, after construction. That
    it was done, and the annealing step, live in the state dict.

    Args:
        bits: Bit width, 1 to 8.
        channels: Size of dimension 0 of the weights.
        granularity: "tensor" (one scale), "channel" (one per output channel) or
            "gate" (one per gate of a recurrent matrix, else as "tensor"). None:
            "channel" below SOFT_FROM_BITS bits, else "tensor".
        forward: "soft", "hard" or "auto" (by bit width).
        annealing: Schedule of the inverse temperature.
        every: Quantize at every k-th optimizer step only (quantization frequency).
        gates: Gates stacked in dimension 0 of the weights.
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
    ):
        super().__init__()
        if granularity is None:
            granularity = "tensor" if bits >= SOFT_FROM_BITS else "channel"
        if forward == "auto":
            forward = "soft" if bits >= SOFT_FROM_BITS else "hard"
        self.bits = bits
        self.granularity = granularity
        self.mode = SOFT if forward == "soft" else HARD
        self.annealing = annealing.resolve(
            *(SOFT_ALPHA if self.mode == SOFT else HARD_ALPHA)
        )
        self.every = every
        size = {"tensor": 1, "gate": gates, "channel": channels}[granularity]
        self.log_scale = nn.Parameter(torch.zeros(size))
        self.log_mu = nn.Parameter(torch.zeros(1))
        for parameter in (self.log_scale, self.log_mu):
            parameter._no_weight_decay = True
        # The live values are Python numbers, so that no step waits for a GPU; the
        # buffer (bits, fitted, step, total steps) is written when a state dict is
        # taken. It is float because ESPnet's checkpoint averaging sums integers.
        self.step = 0
        self.total_steps = annealing.steps or 0
        self.fitted = False
        self.register_buffer("saved_state", torch.zeros(4))
        self._cache: Optional[tuple] = None

    def extra_repr(self) -> str:
        a = self.annealing
        kind = "soft" if self.mode == SOFT else "hard"
        return (
            f"bits={self.bits}, granularity={self.granularity}, forward={kind}, "
            f"alpha={a.start:g}..{a.end:g} {a.curve}"
        )

    @property
    def alpha(self) -> float:
        """Inverse temperature at the present step."""
        return self.annealing.alpha(self.step, self.total_steps)

    @property
    def active(self) -> bool:
        """Whether the present training step quantizes."""
        return (
            self.step >= self.annealing.warmup_steps
            and (self.step - self.annealing.warmup_steps) % self.every == 0
        )

    def advance(self) -> None:
        """Count one optimizer step."""
        self.step += 1

    def fit(self, w: torch.Tensor) -> None:
        """Fit scale and curvature to the weights.

        Raises:
            ValueError: If a weight is NaN or infinite.
        """
        log_scale, log_mu = fit(w, self.bits, self.log_scale.numel())
        with torch.no_grad():
            self.log_scale.copy_(log_scale)
            self.log_mu.copy_(log_mu)
        self.fitted = True

    def forward(self, w: torch.Tensor) -> torch.Tensor:
        """Return the weights to compute with, of the shape and type of w."""
        if not self.fitted:
            if not self.training:
                logging.warning(
                    "A quantizer without trained parameters was used in evaluation: "
                    "its codebook was fitted to the weights (post-training "
                    f"quantization to {self.bits} bits)."
                )
            self.fit(w)
        if not self.training:
            return self._evaluated(w)
        self._cache = None
        if not self.active:
            # Keeps both parameters in the graph, as DistributedDataParallel expects.
            return w + 0.0 * (self.log_scale.sum() + self.log_mu).to(w.dtype)
        # LSQ (arXiv 1902.08153, section 2.2): the gradient of a quantizer's parameter
        # is a sum over many weights and would dominate the norm of the whole gradient.
        numel = max(w.numel(), 1)
        factors = ((self.log_scale.numel() / numel) ** 0.5, numel**-0.5)
        return fake_quantize(
            w, self.log_scale, self.log_mu, self.bits, self.mode, self.alpha, factors
        )

    def _evaluated(self, w: torch.Tensor) -> torch.Tensor:
        """Return the hard weights, computed once for as long as nothing changes."""
        key = tuple(
            (t.data_ptr(), t._version) for t in (w, self.log_scale, self.log_mu)
        )
        if self._cache is None or self._cache[0] != key:
            self._cache = (key, self.quantize(w))
        return self._cache[1]

    def train(self, mode: bool = True):
        self._cache = None
        return super().train(mode)

    def quantize(self, w: torch.Tensor) -> torch.Tensor:
        """Return every weight moved to its nearest centroid."""
        return hard_quantize(w, self.log_scale, self.log_mu, self.bits)

    def indices(self, w: torch.Tensor) -> torch.Tensor:
        """Return the index of the nearest centroid of every weight, uint8."""
        return hard_indices(w, self.log_scale, self.log_mu, self.bits)

    def centroids(self) -> torch.Tensor:
        """Return z_j = s c_j, shape (2^bits,) or (scales, 2^bits), float32."""
        c, _ = codebook(self.log_mu, self.bits)
        scale, _ = scale_pair(self.log_scale, c.dtype)
        z = scale * c
        return z if len(z) > 1 else z[0]

    @torch.no_grad()
    def statistics(self, w: torch.Tensor) -> Dict[str, float]:
        """Return sums over the weights from which a model's figures are made.

        "hard": squared norm of the hard weights; "gap": squared norm of soft - hard;
        "settled": number of weights whose soft value lies within 1% of the local gap
        of a centroid; "numel": number of weights. Large tensors are sampled.
        """
        numel = w.numel()
        w = w.detach().reshape(w.shape[0], -1)
        w = w[:, :: max(1, numel // STATISTICS_SAMPLE)].contiguous()
        hard = self.quantize(w).double()
        soft = fake_quantize(
            w, self.log_scale, self.log_mu, self.bits, SOFT, self.alpha
        ).double()
        c, _ = codebook(self.log_mu, self.bits)
        scale, _ = scale_pair(self.log_scale, c.dtype)
        index = self.indices(w).long()
        gap = torch.diff(c)[index.clamp_max(c.numel() - 2)].double()
        gap = gap * scale.double().repeat_interleave(len(w) // len(scale), 0)
        share = numel / max(w.numel(), 1)
        return {
            "hard": share * float(hard.square().sum()),
            "gap": share * float((soft - hard).square().sum()),
            "settled": share * float(((soft - hard).abs() <= 0.01 * gap).sum()),
            "numel": float(numel),
        }

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        values = [self.bits, float(self.fitted), self.step, self.total_steps]
        self.saved_state.copy_(torch.tensor(values))
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(
        self, state_dict, prefix, metadata, strict, missing, unexpected, errors
    ):
        saved = state_dict.get(prefix + "saved_state")
        if saved is not None:
            bits, fitted, step, total_steps = (round(v) for v in saved.tolist())
            if bits != self.bits:
                errors.append(
                    f"{prefix[:-1]} has {bits} bits in the checkpoint and {self.bits} "
                    "in the configuration; use the same gq_conf, or start from the "
                    "float form of the checkpoint (python -m espnet_gq.bin.pack "
                    "--format float)."
                )
                return
            self.fitted, self.step, self.total_steps = bool(fitted), step, total_steps
        super()._load_from_state_dict(
            state_dict, prefix, metadata, strict, missing, unexpected, errors
        )
        self._cache = None
