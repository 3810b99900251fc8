"""Tensors with NaN or infinite values, by name."""

from typing import Iterable, List, Tuple

import torch

LISTED = 5
"""Number of tensors that a message names at most."""


_WEIGHTS = (
    *("weight", "bias", "running_"),
    *("in_proj_", "q_proj_", "k_proj_", "v_proj_"),  # of nn.MultiheadAttention
    "original",  # of parametrizations
)


class NotFiniteError(ValueError):
    """Weights that are NaN or infinite: names their tensors."""


def is_weight(name: str) -> bool:
    """Return whether PyTorch's layers keep a weight or statistics under a name.

    Other tensors of a state dict need not be finite: a causal mask holds -inf.
    """
    last = name.rpartition(".")[2]
    return last.startswith(_WEIGHTS)


def not_finite(tensors: Iterable[Tuple[str, torch.Tensor]]) -> List[str]:
    """Return the names of the tensors that hold a NaN or infinite value."""
    return [
        name
        for name, tensor in tensors
        if tensor.is_floating_point()
        and tensor.device.type != "meta"
        and not torch.isfinite(tensor).all()
    ]


def named(names: List[str]) -> str:
    """Return the first LISTED names, as a message lists them."""
    more = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {more} more" if more > 0 else "")


def check_finite(tensors: Iterable[Tuple[str, torch.Tensor]]) -> None:
    """Refuse tensors that hold NaN or infinite values.

    Raises:
        NotFiniteError: If one does; names it.
    """
    found = not_finite(tensors)
    if found:
        raise NotFiniteError(
            f"NaN or infinite values in {named(found)}; allowed: finite weights"
        )
