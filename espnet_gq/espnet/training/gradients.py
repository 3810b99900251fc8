"""Names the parameters whose gradients are not finite.

ESPnet reports only that the norm is not finite, and only after clipping has spread this
to every gradient.
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
    """Reports on the gradients of one model, once."""

    def __init__(self, model: torch.nn.Module):
        self.model = getattr(model, "module", model)
        self.reported = False
        self._stops: List[Callable[[], None]] = []

    def report(self) -> None:
        """Log the names of gradients that are not finite, the first time."""
        if not self.reported:
            self.reported = True
            if _report(self.model):
                self._stops.append(_watch_outputs(self.model))

    def stop(self) -> None:
        """Stop watching the outputs of layers."""
        while self._stops:
            self._stops.pop()()


_watch: ContextVar[Optional[_Watch]] = ContextVar("watch", default=None)


@contextlib.contextmanager
def named_when_not_finite(model: torch.nn.Module) -> Iterator[None]:
    """Within the block, `clip_grad_norm_` logs once which gradients are not finite.

    Layers are named from last to first, since an overflowing gradient spreads to the
    layers before. The overflow may have begun in the forward pass: the next step also
    logs the first layer with a finite input and an output that is not.

    Args:
        model: The model that is trained.

    Raises:
        NotFiniteError: In the block, if weights themselves are NaN or infinite, which
            would make ESPnet skip every further step.
    """
    watch = _Watch(model)
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)
        watch.stop()


def clip_grad_norm_(parameters: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    """`torch.nn.utils.clip_grad_norm_` for ESPnet's trainer (see `torch_proxy`)."""
    watch = _watch.get()
    original = torch.nn.utils.clip_grad_norm_
    if watch is None:
        return original(parameters, *args, **kwargs)
    parameters = list(parameters)
    watch.stop()
    with contextlib.suppress(RuntimeError):  # raised before anything is scaled
        return original(parameters, *args, **{**kwargs, "error_if_nonfinite": True})
    watch.report()
    return original(parameters, *args, **kwargs)


def _report(model: torch.nn.Module) -> bool:
    """Log what is not finite; return whether a gradient is not."""
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
    """Log the first layer whose output is not finite; return a function that stops."""
    handles: List[RemovableHandle] = []

    def stop() -> None:
        while handles:
            handles.pop().remove()

    def check(name: str, layer: torch.nn.Module, inputs: Any, output: Any) -> None:
        if handles and _not_finite(output) and not _not_finite(inputs):
            logging.warning(
                f"The output of {name} ({type(layer).__name__}) is NaN or infinite, "
                "its input is not"
            )
            stop()

    for name, layer in model.named_modules():
        if name:
            hook = functools.partial(check, name)
            handles.append(layer.register_forward_hook(hook))
    return stop


def _not_finite(value: Any) -> bool:
    """Return whether a tensor, or a tensor in a container, is not finite."""
    if torch.is_tensor(value):
        return value.is_floating_point() and not bool(torch.isfinite(value).all())
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, (list, tuple)) and any(map(_not_finite, value))
