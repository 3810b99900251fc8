"""The state of PyTorch around a call of a packed layer: tracing, transforms, autocast.

PyTorch does not see the kernels, which are called through ctypes. Where it has to
record the computation, an operator (`ops.py`) or PyTorch operations take their place.
"""

import contextlib
from typing import ContextManager, Optional

import torch
from torch import nn
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.autograd import forward_ad

PLAIN = (torch.Tensor, nn.Parameter)
"""Types of tensors that the kernels may read."""

_tracing = torch._C._get_tracing_state
_modes = torch._C._len_torch_dispatch_stack
_transforms = torch._C._functorch.peek_interpreter_stack
_autocast = torch._C._is_any_autocast_enabled


def is_usual() -> bool:
    """Return whether the call is eager, with nothing around it but autograd."""
    return (
        _tracing() is None
        and _modes() == 0
        and _transforms() is None
        and forward_ad._current_level < 0
        and not _autocast()
    )


def is_recorded(tensor: torch.Tensor) -> bool:
    """Return whether operations on a tensor are recorded or overridden.

    torch.compile, torch.export, torch.jit.trace, make_fx and other dispatch modes
    record them; subclasses of tensors override them.
    """
    return (
        torch.compiler.is_compiling()
        or _tracing() is not None
        or _modes() > 0
        or type(tensor) not in PLAIN
    )


def is_transformed() -> bool:
    """Return whether torch.func or forward-mode differentiation takes part."""
    return _transforms() is not None or forward_ad._current_level >= 0


def autocast_type(tensor: torch.Tensor) -> Optional[torch.dtype]:
    """Return the type of products with a tensor under autocast, None without it."""
    if not _autocast():
        return None
    device = tensor.device.type
    if not torch.amp.is_autocast_available(device):
        return None
    eligible = tensor.is_floating_point() and tensor.dtype is not torch.float64
    if not eligible or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def without_autocast(device: torch.device) -> ContextManager:
    """Return a context without autocast."""
    if not _autocast():
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


def outside_transforms() -> ContextManager:
    """Return a context in which new tensors are plain ones with memory."""
    if _transforms() is None:
        return contextlib.nullcontext()
    return temporarily_clear_interpreter_stack()


def wants_gradient(*tensors: Optional[torch.Tensor]) -> bool:
    """Return whether autograd follows one of the tensors."""
    if not torch.is_grad_enabled():
        return False
    return any(tensor is not None and tensor.requires_grad for tensor in tensors)
