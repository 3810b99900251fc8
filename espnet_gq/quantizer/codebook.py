"""Scales and centroids of one weight tensor: what is kept of it when it is packed.

How the weights are trained towards the centroids is another matter: `base.py`. A method
(`methods.py`) is a class of both.
"""

import copy
import hashlib
import threading
from typing import Optional, Tuple, TypeVar

import torch
from torch import nn

from espnet_gq.quantizer.fit import MIN_SCALE
from espnet_gq.quantizer.function import hard_indices, hard_quantize, scale_pair
from espnet_gq.quantizer.state import SavedState

GRANULARITIES = ("tensor", "gate", "channel")
_FITTING = threading.RLock()
_Self = TypeVar("_Self", bound="Codebook")


def _digest(w: torch.Tensor) -> bytes:
    """Return a digest of the values of a tensor."""
    values = w.detach().cpu().contiguous().view(-1).view(torch.uint8)
    return hashlib.sha256(values.numpy().data).digest()


class Codebook(SavedState):
    """Scales s and a codebook c of one weight tensor: a hard weight is s * c[index].

    All of it is in parameters and buffers, so that copies, averages and checkpoints of
    a module have it. A class of codebooks defines `_fit` and `normalized_centroids`.

    Args:
        bits: Bit width, 1 to 8.
        channels: Size of dimension 0 of the weights.
        granularity: "tensor" (one scale), "channel" (one per output channel) or
            "gate" (one per gate of a recurrent matrix, else as "tensor"). None:
            `default_granularity`.
        gates: Gates stacked in dimension 0 of the weights.
        total_steps: See `SavedState`.
    """

    def __init__(
        self,
        bits: int,
        channels: int,
        granularity: Optional[str] = None,
        gates: int = 1,
        total_steps: int = 0,
    ):
        super().__init__(bits, total_steps)
        if granularity is None:
            granularity = self.default_granularity(bits)
        self.granularity = granularity
        size = {"tensor": 1, "gate": gates, "channel": channels}[granularity]
        scales = torch.zeros(max(size, 1), dtype=torch.float32, device="cpu")
        self.log_scale = nn.Parameter(scales)
        self.idle_row: Optional[int] = None
        """A row of the weights that is never trained (padding of an embedding)."""
        self._provisional: Optional[Tuple[bytes, "Codebook"]] = None

    @staticmethod
    def default_granularity(bits: int) -> str:
        """Return the granularity where none is given."""
        return "tensor"

    @staticmethod
    def _spare_decay(parameter: nn.Parameter) -> None:
        """Mark a parameter that weight decay must not pull to 0."""
        setattr(parameter, "_no_weight_decay", True)

    def extra_repr(self) -> str:
        return f"bits={self.bits}, granularity={self.granularity}"

    # --- what a class of codebooks defines -------------------------------------------

    def _fit(self, w: torch.Tensor) -> None:
        """Set scale and codebook from the weights; without gradient."""
        raise NotImplementedError

    def normalized_centroids(self) -> torch.Tensor:
        """Return the codebook c, ascending, at most 2^bits values, float32 or 64."""
        raise NotImplementedError

    # --- fitting ---------------------------------------------------------------------

    @torch.no_grad()
    def fit(self, w: torch.Tensor) -> None:
        """Fit scale and codebook to the weights, for a training that goes on from them.

        A row of zeros gets the median scale of the others, and a tensor of zeros the
        one of a newly initialised layer, because training does not recover from a scale
        close to zero.

        Raises:
            ValueError: If a weight is NaN or infinite.
        """
        with _FITTING:
            self._fit(w)
            rows = w.detach().reshape(self.log_scale.numel(), -1)
            zero = (rows.abs() < MIN_SCALE).all(1).to(self.log_scale.device)
            if len(zero) == w.shape[0] and self.idle_row is not None:
                idle, zero[self.idle_row] = bool(zero[self.idle_row]), False
                zero = zero if zero.sum() < len(zero) - idle else zero | True
            if zero.all() and w.numel():
                columns = w.numel() // w.shape[0]
                row = torch.linspace(
                    *(-1, 1, columns), dtype=torch.float32, device=w.device
                )
                self._fit((row * columns**-0.5).expand(len(w), -1).reshape(w.shape))
            elif zero.any() and w.numel():
                self.log_scale[zero] = self.log_scale[~zero].median()
            self._provisional = None
            self.fitted = True

    def forget_fit(self) -> None:
        """Have scale and codebook fitted anew at the next step that quantizes."""
        self.fitted = False

    def fitted_to(self: _Self, w: torch.Tensor) -> _Self:
        """Return this module, or a copy fitted to the weights where this is not.

        The copy is kept for as long as the weights are the same; this module stays as
        it is.

        Raises:
            ValueError: If a weight is NaN or infinite.
        """
        if self.fitted:
            return self
        digest = _digest(w)
        with _FITTING:
            if self._provisional is None or self._provisional[0] != digest:
                self._provisional = (digest, self._fitted_copy(w))
            return self._provisional[1]  # type: ignore[return-value]

    @torch.inference_mode(False)
    @torch.no_grad()
    def _fitted_copy(self: _Self, w: torch.Tensor) -> _Self:
        # No training goes on from the copy: a row of zeros stays one.
        self._provisional = None
        new = copy.deepcopy(self)
        if new.saved_state.is_meta:
            new.to_empty(device=w.device)
        new._fit(w)
        new.fitted = True
        return new

    # --- hard weights ----------------------------------------------------------------

    def quantize(self, w: torch.Tensor) -> torch.Tensor:
        """Return the nearest centroid of every weight, in the shape and type of w."""
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

    # --- state -----------------------------------------------------------------------

    def _apply(self, fn, *args, **kwargs):
        result = super()._apply(fn, *args, **kwargs)
        self._provisional = None
        return result

    def _load_from_state_dict(self, *args, **kwargs):
        super()._load_from_state_dict(*args, **kwargs)
        self._provisional = None
