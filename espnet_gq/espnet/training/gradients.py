"""Gradients that are not finite, by name.

ESPnet says that their norm is not, and by then clipping has spread it to all of them.
"""

import contextlib
import functools
import logging
from contextvars import ContextVar
from typing import Any, Callable, Iterator, List, Optional

import torch
from torch.utils.hooks import RemovableHandle

from espnet_gq.nn.finite import check_finite, named, not_finite


class _Watch:
    """What is said of the gradients of one model."""

    def __init__(self, model: torch.nn.Module):
        self.model = getattr(model, "module", model)
        self.reported = False
        self._stops: List[Callable[[], None]] = []

    def report(self) -> None:
        """Name what is not finite, the first time."""
        if not self.reported:
            self.reported = True
            if _report(self.model):
                self._stops.append(_watch_outputs(self.model))

    def stop(self) -> None:
        """Look at the outputs of layers no longer."""
        while self._stops:
            self._stops.pop()()


_watch: ContextVar[Optional[_Watch]] = ContextVar("watch", default=None)


@contextlib.contextmanager
def named_when_not_finite(model: torch.nn.Module) -> Iterator[None]:
    """Within the block `clip_grad_norm_` names what is not finite, the first time.

    Layers are named from the last to the first: a gradient that is too large for its
    type spreads to those before it. It may have begun in the forward pass; so a layer
    whose output, in the next step, is not finite although its input is, is named too.

    Args:
        model: The model that is trained.

    Raises:
        NotFiniteError: In the block, if weights are NaN or infinite themselves: every
            further step would be skipped.
    """
    watch = _Watch(model)
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)
        watch.stop()


def clip_grad_norm_(parameters: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Clip as PyTorch does: what ESPnet's trainer calls (see `torch_proxy`)."""
    watch = _watch.get()
    original = torch.nn.utils.clip_grad_norm_
    if watch is None:
        return original(parameters, *args, **kwargs)
    parameters = list(parameters)
    watch.stop()
    with contextlib.suppress(RuntimeError):  # before anything is scaled
        return original(parameters, *args, **{**kwargs, "error_if_nonfinite": True})
    watch.report()
    return original(parameters, *args, **kwargs)


def _report(model: torch.nn.Module) -> bool:
    """Say what is not finite; returns whether any gradient is not."""
    parameters = list(model.named_parameters())
    check_finite(parameters)
    grads = [(name, p.grad) for name, p in parameters if p.grad is not None]
    found = not_finite(grads)
    if not found:
        what = "the gradients are finite, but their squares overflow"
    elif len(found) == len(grads):
        what = f"those of all {len(grads)} tensors, as where the loss is not finite"
    else:
        what = f"NaN or infinite gradients in {named(found[::-1])} (of {len(grads)})"
    logging.warning(
        f"The norm of the gradients is NaN or infinite, the step is skipped: {what}"
    )
    return bool(found)


def _watch_outputs(model: torch.nn.Module) -> Callable[[], None]:
    """Name the first layer that makes what is not finite; returns what ends it."""
    handles: List[RemovableHandle] = []

    def stop() -> None:
        while handles:
            handles.pop().remove()

    def look(name: str, layer: torch.nn.Module, inputs: Any, output: Any) -> None:
        if handles and _spoilt(output) and not _spoilt(inputs):
            logging.warning(
                f"The output of {name} ({type(layer).__name__}) is NaN or infinite, "
                "its input is not"
            )
            stop()

    for name, layer in model.named_modules():
        if name:
            hook = functools.partial(look, name)
            handles.append(layer.register_forward_hook(hook))
    return stop


def _spoilt(value: Any) -> bool:
    """Return whether a tensor, or one in a container, is not finite."""
    if torch.is_tensor(value):
        return value.is_floating_point() and not bool(torch.isfinite(value).all())
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, (list, tuple)) and any(map(_spoilt, value))
