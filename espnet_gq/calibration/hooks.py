"""Functions that are called around the modules of a model while it computes."""

import contextlib
from typing import Any, Callable, Iterable, Iterator

import torch
from torch import nn


class Stop(Exception):
    """Ends a forward pass early: its remaining layers are not needed."""


@contextlib.contextmanager
def before_calls(
    modules: Iterable[nn.Module], function: Callable[[nn.Module, Any, Any], Any]
) -> Iterator[None]:
    """Call a function before each call of some modules, within the block.

    Args:
        modules: The modules.
        function: Takes a module, and the arguments of the call by position and by name.
    """
    handles = [
        module.register_forward_pre_hook(function, with_kwargs=True)
        for module in dict.fromkeys(modules)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def without_fused_attention() -> Iterator[None]:
    """Have PyTorch's Transformer layers call their parts within the block."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
