"""Quantizers as stored in a state dict or a packed file."""

from dataclasses import dataclass
from typing import Collection, Dict, List, Mapping, Optional, Set

import torch

from espnet_gq.quantizer.function import LOG_SCALES, scale_pair
from espnet_gq.quantizer.mulaw import codebook
from espnet_gq.quantizer.state import StateError, read_state
from espnet_gq.wording import quoted

StateDict = Dict[str, torch.Tensor]

QUANTIZER_KEYS = ("log_scale", "log_mu", "codebook", "saved_state")
"""Keys of a quantizer in a state dict, which are NAME_quantizer.KEY."""


def quantized_names(state: Mapping[str, torch.Tensor]) -> List[str]:
    """Return the names of the quantized tensors of a QAT state dict."""
    suffix = "_quantizer.saved_state"
    return [k[: -len(suffix)] for k in state if k.endswith(suffix)]


def is_quantizer_key(key: str, names: Set[str]) -> bool:
    """Return whether a key belongs to the quantizer of one of these tensors."""
    head, _, tail = key.rpartition("_quantizer.")
    return tail in QUANTIZER_KEYS and head in names


@dataclass(frozen=True)
class StoredQuantizer:
    """A quantizer as stored in a state dict or a packed file; a weight is s * c[index].

    Attributes:
        bits: Bit width.
        log_scale: ln s (n,), float32: scale i serves the i-th of n equal parts of
            dimension 0.
        log_mu: ln mu (1,) of GQ's centroids, None where the centroids are stored.
        centroids: c (levels,), float32, ascending, None where ln mu is stored.
    """

    bits: int
    log_scale: torch.Tensor
    log_mu: Optional[torch.Tensor] = None
    centroids: Optional[torch.Tensor] = None

    @property
    def scale(self) -> torch.Tensor:
        """Scales s (n, 1)."""
        return scale_pair(self.log_scale, torch.float32)[0]

    @property
    def codebook(self) -> torch.Tensor:
        """Centroids c, at most 2^bits, float32."""
        if self.log_mu is not None:
            return codebook(self.log_mu, self.bits)[0]
        if self.centroids is None:
            raise ValueError("a quantizer has neither log_mu nor centroids")
        return self.centroids

    def state(self, name: str) -> StateDict:
        """Return its entries of a state dict."""
        values = {
            "log_scale": self.log_scale,
            "log_mu": self.log_mu,
            "codebook": self.centroids,
            "saved_state": torch.tensor([self.bits, 1, 0, 0], dtype=torch.float32),
        }
        return {f"{name}_quantizer.{k}": v for k, v in values.items() if v is not None}


def _is_vector(values: torch.Tensor, sizes: Collection[int]) -> bool:
    """Return whether a tensor is a vector of finite real numbers of an allowed size."""
    return (
        values.is_floating_point()
        and values.dim() == 1
        and values.numel() in sizes
        and bool(values.isfinite().all())
    )


def stored_quantizer(state: Mapping[str, torch.Tensor], name: str) -> StoredQuantizer:
    """Return the quantizer of a quantized tensor of a QAT state dict.

    Raises:
        ValueError: If it was never fitted, lacks a tensor, or one of its tensors, or
            the quantized one, has a shape or values that no training gives it.
    """
    log_scale, log_mu, own, saved = (
        state.get(f"{name}_quantizer.{key}") for key in QUANTIZER_KEYS
    )
    if saved is None or log_scale is None or (log_mu is None and own is None):
        raise ValueError(
            f"{name} has a quantizer without all of its tensors; allowed: "
            "saved_state, log_scale, and log_mu or codebook"
        )
    try:
        bits, fitted, _, _ = read_state(saved)
        if not 1 <= bits <= 8:
            raise StateError(f"it has {bits} bits; allowed: 1 to 8")
    except StateError as e:
        raise StateError(f"the quantizer of {name}: {e}") from None
    if not fitted:
        raise ValueError(
            f"{name} has never been quantized in training; allowed: a checkpoint that "
            "a training with a gq_ encoder, decoder or model wrote"
        )
    weight = state.get(name)
    if weight is None or not weight.is_floating_point() or weight.dim() < 1:
        raise StateError(f"{name} is no floating-point tensor with a quantizer")
    most = len(weight) or 1
    for key, values, allowed in (
        ("log_scale", log_scale, [n for n in range(1, most + 1) if most % n == 0]),
        ("log_mu", log_mu, [1]),
        ("codebook", own, range(2, 2**bits + 1)),
    ):
        if values is not None and not _is_vector(values, allowed):
            raise StateError(
                f"the quantizer of {name}: {key} has shape "
                f"{quoted(tuple(values.shape))} and type {values.dtype}; allowed: a "
                "vector of finite numbers, one scale per equal part of "
                "dimension 0, one ln mu, or at most 2^bits centroids"
            )
    if own is not None:
        own = own.float().sort().values
    log_scale = log_scale.float().clamp(*LOG_SCALES)
    return StoredQuantizer(
        bits, log_scale, None if log_mu is None else log_mu.float(), own
    )
