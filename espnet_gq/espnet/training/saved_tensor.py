"""Decides whether a tensor saved for backward may be overwritten there.

A gradient can reuse the memory of its tensor if nothing can read the tensor any more:
no Python variable, no view, no other node of the graph, no later backward pass. PyTorch
counts references; `unobserved` compares the counts with those of a tensor that is known
to have no other reference.
"""

import functools
import sys
from typing import Callable, List, Optional, Tuple

import torch
from torch import Tensor

Counts = Tuple[int, ...]


def unobserved(tensor: Tensor) -> bool:
    """Return whether only the calling backward pass can read this tensor.

    Call it in a `backward` with a local variable taken from `ctx.saved_tensors`, while
    no other variable refers to the tensor. Returns False if in doubt.
    """
    alone = _alone()
    return (
        alone is not None
        and tensor.is_contiguous()
        and not torch._C._autograd._get_current_graph_task_keep_graph()
        and _counts(tensor) == alone[tensor._is_view()]
    )


def calibrate() -> None:
    """Measure the reference counts of this PyTorch now, outside a backward pass."""
    _alone()


def _counts(tensor: Tensor) -> Counts:
    """Return reference counts of the tensor, its storage and the base of a view."""
    storage = tensor.untyped_storage()
    counts = [
        sys.getrefcount(tensor),
        tensor._use_count(),  # type: ignore[attr-defined]
        sys.getrefcount(storage),
        torch._C._storage_Use_Count(storage._cdata),
    ]
    base = tensor._base
    if base is not None:
        whole = base.numel() == tensor.numel()
        counts.append(sys.getrefcount(base))
        counts.append(base._use_count())  # type: ignore[attr-defined]
        counts.append(int(whole))
    return tuple(counts)


class _Probe(torch.autograd.Function):
    """Saves its input and appends its counts in the backward pass."""

    @staticmethod
    def forward(ctx, tensor: Tensor, found: List[Counts]):
        ctx.save_for_backward(tensor)
        ctx.found = found
        return tensor.sum()

    @staticmethod
    def backward(ctx, grad):
        tensor, *_ = ctx.saved_tensors
        ctx.found.append(_as_called(tensor))
        return torch.zeros_like(tensor), None


def _as_called(tensor: Tensor) -> Counts:
    """Return the counts from as deep a call as in `unobserved`, which adds to them."""
    return _counts(tensor)


def _made() -> Tensor:
    return torch.ones(2, 3, requires_grad=True) * 2


def _viewed() -> Tensor:
    # A Linear layer returns such a view for an input of more than two dimensions.
    return _made().view(3, 2)


def _probe(make: Callable[[], Tensor], hold: Callable[[Tensor], object]) -> Counts:
    """Return the counts in a backward pass while the result of `hold` is alive."""
    found: List[Counts] = []

    def begin():
        tensor = make()
        return _Probe.apply(tensor, found), hold(tensor)

    loss, held = begin()
    loss.backward()
    del held
    return found[0]


@functools.lru_cache(maxsize=None)
def _alone() -> Optional[Tuple[Counts, Counts]]:
    """Return the counts of a tensor and of a view that have no other reference.

    Returns None if the counts of this PyTorch do not reveal every kind of reference.
    """
    others: List[Callable[[Tensor], object]] = [
        lambda t: t,
        lambda t: t.detach(),
        lambda t: t[0],
        lambda t: t.untyped_storage(),
        lambda t: t.sigmoid() * t,  # saved by a node
        lambda t: t.detach().numpy(),
    ]
    try:
        with torch.enable_grad():
            alone = _probe(_made, lambda t: None), _probe(_viewed, lambda t: None)
            for make, counts in zip((_made, _viewed), alone):
                if any(_probe(make, hold) == counts for hold in others):
                    return None
            if _probe(_viewed, lambda t: t._base) == alone[1]:
                return None
        return alone
    except (AttributeError, RuntimeError):  # private functions of PyTorch
        return None
