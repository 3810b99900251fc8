"""What the quantizers of one weight tensor share: fitting, steps, evaluation, state."""

import logging
from typing import Dict, Optional, Tuple

import torch
from torch import nn

from espnet_gq.quantizer.annealing import Annealing
from espnet_gq.quantizer.function import (
    hard_indices,
    hard_quantize,
    scale_pair,
)

STATISTICS_SAMPLE = 2**17
GRANULARITIES = ("tensor", "gate", "channel")


class StateError(ValueError):
    """A quantizer's saved state that is not this quantizer's, or no state at all."""


def read_state(saved: torch.Tensor) -> Tuple[int, bool, int, int]:
    """Return bits, fitted, step and total steps of a `saved_state`.

    The mean of several states, which averaging checkpoints makes, is one as well.

    Raises:
        StateError: If it is none.
    """
    known = saved.is_floating_point() and saved.shape == (4,)
    if not known or not torch.isfinite(saved).all():
        raise StateError(
            f"its saved_state is {saved.flatten().tolist()[:8]}; allowed: four finite "
            "numbers"
        )
    bits, fitted, step, total_steps = (round(v) for v in saved.tolist())
    return bits, bool(fitted), step, total_steps


class Quantizer(nn.Module):
    """Scales and a codebook for one weight tensor: a hard weight is s * c[index].

    In training, weights pass through what the method makes of them; in evaluation every
    weight is its nearest centroid.

    Scale and codebook are fitted to the weights at first use, so that a float
    checkpoint may be loaded, or the weights initialised anew, after construction. That
    it was done, and the step, live in the state dict.

    A method defines `_fit`, `training_weights` and `normalized_centroids`.

    Args:
        bits: Bit width, 1 to 8.
        channels: Size of dimension 0 of the weights.
        granularity: "tensor" (one scale), "channel" (one per output channel) or
            "gate" (one per gate of a recurrent matrix, else as "tensor"). None:
            by method and bit width.
        annealing: Schedule of the inverse temperature, and the warm-up.
        every: Quantize at every k-th optimizer step only (quantization frequency).
        gates: Gates stacked in dimension 0 of the weights.
    """

    alpha_range: Tuple[float, float] = (1.0, 1.0)
    """First and last inverse temperature where the annealing names none."""
    adds_gradient = False
    """Whether the gradient of a penalty is added, which AMP's scaling and the division
    of accumulated losses would miss."""

    def __init__(
        self,
        bits: int,
        channels: int,
        granularity: Optional[str] = None,
        annealing: Annealing = Annealing(),
        every: int = 1,
        gates: int = 1,
    ):
        super().__init__()
        if granularity is None:
            granularity = self.default_granularity(bits)
        self.bits = bits
        self.granularity = granularity
        self.annealing = annealing.resolve(*self.alpha_range)
        self.every = every
        size = {"tensor": 1, "gate": gates, "channel": channels}[granularity]
        self.log_scale = nn.Parameter(torch.zeros(max(size, 1)))
        # The live values are Python numbers, so that no step waits for a GPU; the
        # buffer (bits, fitted, step, total steps) is written when a state dict is
        # taken. It is float because ESPnet's checkpoint averaging sums integers.
        self.step = 0
        self.total_steps = annealing.steps or 0
        self.fitted = False
        self.register_buffer("saved_state", torch.zeros(4))
        self._cache: Optional[tuple] = None

    @staticmethod
    def default_granularity(bits: int) -> str:
        """Return the granularity where none is given."""
        return "tensor"

    def extra_repr(self) -> str:
        return f"bits={self.bits}, granularity={self.granularity}"

    # --- what a method defines -------------------------------------------------------

    def _fit(self, w: torch.Tensor) -> None:
        """Set scale and codebook from the weights; without gradient."""
        raise NotImplementedError

    def training_weights(self, w: torch.Tensor) -> torch.Tensor:
        """Return what an active training step computes with."""
        raise NotImplementedError

    def normalized_centroids(self) -> torch.Tensor:
        """Return the codebook c, ascending, at most 2^bits values, float32 or 64."""
        raise NotImplementedError

    def _soft(self, w: torch.Tensor) -> torch.Tensor:
        """Return the soft weights that `statistics` compares with the hard ones."""
        return self.training_weights(w)

    # --- steps -----------------------------------------------------------------------

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

    # --- weights ---------------------------------------------------------------------

    def fit(self, w: torch.Tensor) -> None:
        """Fit scale and codebook to the weights.

        Raises:
            ValueError: If a weight is NaN or infinite.
        """
        with torch.no_grad():
            self._fit(w)
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
        if self.active:
            return self.training_weights(w)
        # Keeps all parameters in the graph, as DistributedDataParallel expects.
        trained = sum(p.sum() for p in self.parameters() if p.requires_grad)
        return w + 0.0 * torch.as_tensor(trained).to(w.dtype)

    def _evaluated(self, w: torch.Tensor) -> torch.Tensor:
        """Return the hard weights, computed once for as long as nothing changes."""
        tensors = (w, *self.parameters(), *self.buffers())
        key = tuple((t.data_ptr(), t._version) for t in tensors)
        if self._cache is None or self._cache[0] != key:
            self._cache = (key, self.quantize(w))
        return self._cache[1]

    def train(self, mode: bool = True):
        self._cache = None
        return super().train(mode)

    def quantize(self, w: torch.Tensor) -> torch.Tensor:
        """Return every weight moved to its nearest centroid."""
        return hard_quantize(w, self.log_scale, self.normalized_centroids())

    def indices(self, w: torch.Tensor) -> torch.Tensor:
        """Return the index of the nearest centroid of every weight, uint8."""
        return hard_indices(w, self.log_scale, self.normalized_centroids())

    def scale(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Return s, (scales, 1)."""
        return scale_pair(self.log_scale, dtype)[0]

    def centroids(self) -> torch.Tensor:
        """Return z_j = s c_j, shape (levels,) or (scales, levels), float32."""
        z = self.scale() * self.normalized_centroids().float()
        return z if len(z) > 1 else z[0]

    @torch.no_grad()
    def statistics(self, w: torch.Tensor) -> Dict[str, float]:
        """Return sums over the weights from which a model's figures are made.

        "hard": squared norm of the hard weights; "gap": squared norm of soft - hard;
        "settled": number of weights whose soft value lies within 1% of the local gap
        of a centroid; "numel": number of weights. Large tensors are sampled.
        """
        numel = w.numel()
        w = w.detach().flatten(1)
        w = w[:, :: max(1, numel // STATISTICS_SAMPLE)].contiguous()
        hard = self.quantize(w).double()
        soft = self._soft(w).double()
        c = self.normalized_centroids()
        scale = self.scale().double()
        index = self.indices(w).long()
        gap = torch.diff(c)[index.clamp_max(c.numel() - 2)].double()
        gap = gap * scale.repeat_interleave(len(w) // len(scale), 0)
        share = numel / max(w.numel(), 1)
        return {
            "hard": share * float(hard.square().sum()),
            "gap": share * float((soft - hard).square().sum()),
            "settled": share * float(((soft - hard).abs() <= 0.01 * gap).sum()),
            "numel": float(numel),
        }

    # --- state -----------------------------------------------------------------------

    def _apply(self, fn, *args, **kwargs):
        # A module converted to half precision keeps its quantizers in float32: 16 bits
        # hold neither ln s to a small part of a gap nor the number of a step.
        def convert(t: torch.Tensor) -> torch.Tensor:
            new = fn(t)
            half = new.is_floating_point() and new.element_size() < 4
            return t.to(new.device) if half else new

        return super()._apply(convert, *args, **kwargs)

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        values = [self.bits, float(self.fitted), self.step, self.total_steps]
        self.saved_state.copy_(torch.tensor(values))
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(
        self, state_dict, prefix, metadata, strict, missing, unexpected, errors
    ):
        saved = state_dict.get(prefix + "saved_state")
        if saved is not None:
            try:
                bits, fitted, step, total_steps = read_state(saved)
            except StateError as e:
                raise StateError(f"{prefix[:-1]}: {e}") from None
            if bits != self.bits:
                # Raised, not added to torch's list of errors: one sentence is enough.
                raise StateError(
                    f"{prefix[:-1]} has {bits} bits in the checkpoint and {self.bits} "
                    "in the configuration; use the same gq_conf, or start from the "
                    "float form of the checkpoint (python -m espnet_gq.bin.pack "
                    "--format float)"
                )
            self.fitted, self.step, self.total_steps = fitted, step, total_steps
        super()._load_from_state_dict(
            state_dict, prefix, metadata, strict, missing, unexpected, errors
        )
        self._cache = None
