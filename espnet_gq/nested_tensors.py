"""Keeps PyTorch's Transformer from nested tensors, which only its fused path takes."""

from typing import Type

from torch import nn


def keep_padded(module: nn.Module, kind: Type[nn.Module]) -> None:
    """Have each nn.TransformerEncoder with layers of a kind compute padded batches.

    It would turn them into nested tensors if its first layer takes these on PyTorch's
    fused path, and the layers that leave that path do not take them.

    Args:
        module: Any module.
        kind: Class of the layers that are not computed by the fused path.
    """
    for encoder in module.modules():
        if isinstance(encoder, nn.TransformerEncoder):
            if any(isinstance(child, kind) for child in encoder.modules()):
                encoder.use_nested_tensor = False
