"""Gradients that are not finite, by name.

ESPnet says that their norm is not, and by then clipping has spread it to all of them.
"""

import contextlib
import functools
import logging
from typing import Iterator

import torch

from espnet_gq.nn.finite import check_finite, named, not_finite


@contextlib.contextmanager
def named_when_not_finite(model: torch.nn.Module) -> Iterator[None]:
    """Within the block `clip_grad_norm_` names what is not finite, the first time.

    Layers are named in the order of the model: a gradient that is too large for its
    type spreads from the last of them to those before it.

    Args:
        model: The model that is trained.

    Raises:
        NotFiniteError: In the block, if weights are NaN or infinite themselves: every
            further step would be skipped.
    """
    original = torch.nn.utils.clip_grad_norm_
    told = False

    @functools.wraps(original)
    def clip(parameters, *args, **kwargs):
        nonlocal told
        parameters = list(parameters)
        with contextlib.suppress(RuntimeError):  # before anything is scaled
            return original(parameters, *args, **{**kwargs, "error_if_nonfinite": True})
        if not told:
            told = True
            _report(getattr(model, "module", model))
        return original(parameters, *args, **kwargs)

    torch.nn.utils.clip_grad_norm_ = clip
    try:
        yield
    finally:
        torch.nn.utils.clip_grad_norm_ = original


def _report(model: torch.nn.Module) -> None:
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
