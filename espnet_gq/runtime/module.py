"""Functions on a whole module: build it without weights, pack it, set its mode."""

from typing import Callable, ContextManager, Dict, Mapping, Optional, Type

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from espnet_gq.native.library import MODES
from espnet_gq.nested_tensors import keep_padded
from espnet_gq.runtime.embeddings import PackedEmbedding, PackedEmbeddingBag
from espnet_gq.runtime.layers import (
    PackedBilinear,
    PackedConv1d,
    PackedConv2d,
    PackedConv3d,
    PackedConvTranspose1d,
    PackedConvTranspose2d,
    PackedConvTranspose3d,
    PackedLayer,
    PackedLinear,
    PackedMultiheadAttention,
    PackedOther,
    PackedParametrizationList,
)
from espnet_gq.runtime.recurrent import (
    PackedGRU,
    PackedGRUCell,
    PackedLSTM,
    PackedLSTMCell,
    PackedRNN,
    PackedRNNCell,
)
from espnet_gq.runtime.weight import PackedWeight
from espnet_gq.subclasses import extended

PACKED: Dict[Type[nn.Module], Type[PackedLayer]] = {
    cls.float_class: cls
    for cls in (
        *(PackedLinear, PackedBilinear, PackedMultiheadAttention),
        *(PackedConv1d, PackedConv2d, PackedConv3d),
        *(PackedConvTranspose1d, PackedConvTranspose2d, PackedConvTranspose3d),
        *(PackedEmbedding, PackedEmbeddingBag),
        *(PackedLSTM, PackedGRU, PackedRNN),
        *(PackedLSTMCell, PackedGRUCell, PackedRNNCell),
        PackedParametrizationList,
    )
}
"""Packed class of each float class. A class that extends one of these is packed by a
class that extends both; any other class by one that extends `PackedOther`."""


def _initializes(func: Callable) -> bool:
    """Return whether a function fills a tensor with initial values."""
    in_init = getattr(func, "__module__", None) == nn.init.__name__
    return in_init or func in (torch.Tensor.normal_, torch.Tensor.uniform_)


class _Skeleton(TorchFunctionMode):
    """Puts the parameters of PyTorch's layers on the device "meta"."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.Tensor.to and args[0].is_meta:
            return args[0]
        if _initializes(func):
            tensor = args[0] if args else kwargs.get("tensor")
            if getattr(tensor, "is_meta", False):
                return tensor  # random numbers on "meta" would load the compiler
        # PyTorch's layers pass on the device they are given, which is None here.
        if func is torch.empty and kwargs.get("device", "cpu") is None:
            kwargs = {**kwargs, "device": "meta"}
        return func(*args, **kwargs)


def skeleton() -> ContextManager:
    """Return a context in which layers are built without memory for their parameters.

    The parameters are on the device "meta" until they get their values; moving a module
    to another device leaves them there. Other threads are not affected.

        with skeleton():
            model = Model()
    """
    return _Skeleton()


def packed_class(layer: nn.Module) -> Optional[Type[PackedLayer]]:
    """Return the packed class of a float or quantized layer, None if it has none."""
    cls = getattr(layer, "float_class", type(layer))
    kind = next((PACKED[c] for c in cls.__mro__ if c in PACKED), None)
    if kind is None:
        if not any(name.startswith("weight") for name in layer._parameters):
            return None
        kind = PackedOther
    try:
        return extended(cls, kind, "Packed")
    except Exception:  # metaclasses and __init_subclass__ raise what they like
        return None


def install(
    module: nn.Module, weights: Mapping[str, Mapping[str, PackedWeight]]
) -> None:
    """Turn layers into packed ones, in place.

    The layer objects stay the same, so all references to a layer see the packed one.

    Args:
        module: Any module; the name of a lone layer is "".
        weights: Layer name -> parameter name -> packed weight.

    Raises:
        ValueError: If a layer is missing, of another kind, or of another shape.
    """
    for name, packed in weights.items():
        try:
            layer = module.get_submodule(name)
        except AttributeError:
            raise ValueError(f"the model has no layer '{name}'") from None
        cls = packed_class(layer)
        if cls is None or any(w not in layer._parameters for w in packed):
            raise ValueError(
                f"layer '{name}' ({type(layer).__name__}) has no weight to be packed "
                f"under the name {', '.join(packed)}"
            )
        try:
            new = cls.from_float(layer, packed)
        except ValueError as e:
            raise ValueError(f"layer '{name}': {e}") from None
        layer.__class__, layer.__dict__ = cls, new.__dict__
    keep_padded(module, PackedLayer)


def set_mode(module: nn.Module, mode: str) -> int:
    """Choose how the packed weights of a module compute.

    Args:
        module: Any module.
        mode: "exact" (float centroids) or "int8" (centroids and activations rounded to
            8 bits: faster, results differ a little).

    Returns:
        Number of packed weights.

    Raises:
        ValueError: If there is no such mode.
    """
    if mode not in MODES:
        raise ValueError(f"mode {mode!r}; allowed: {', '.join(MODES)}")
    weights = [m for m in module.modules() if isinstance(m, PackedWeight)]
    for weight in weights:
        weight.mode = mode
    return len(weights)
