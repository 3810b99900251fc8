"""The kinds of layer that can be quantized, and where their weights are kept.

A weight is a parameter of its layer, or it is computed from one: weight norm computes
it from a direction, spectral norm and pruning from the original weight. What is then
quantized is the parameter that it is computed from.
"""

import re
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple, Type

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrize import ParametrizationList

from espnet_gq.nn.embeddings import QuantizedEmbedding, QuantizedEmbeddingBag
from espnet_gq.nn.layers import (
    QuantizedBilinear,
    QuantizedConv1d,
    QuantizedConv2d,
    QuantizedConv3d,
    QuantizedConvTranspose1d,
    QuantizedConvTranspose2d,
    QuantizedConvTranspose3d,
    QuantizedLayer,
    QuantizedLinear,
    QuantizedMultiheadAttention,
    QuantizedOther,
    QuantizedParametrizationList,
)
from espnet_gq.nn.recurrent import (
    QuantizedGRU,
    QuantizedGRUCell,
    QuantizedLSTM,
    QuantizedLSTMCell,
    QuantizedRNN,
    QuantizedRNNCell,
)
from espnet_gq.subclasses import extended, obstacle

QUANTIZED: Dict[Type[nn.Module], Type[QuantizedLayer]] = {
    cls.float_class: cls
    for cls in (
        *(QuantizedLinear, QuantizedBilinear, QuantizedMultiheadAttention),
        *(QuantizedConv1d, QuantizedConv2d, QuantizedConv3d),
        *(QuantizedConvTranspose1d, QuantizedConvTranspose2d, QuantizedConvTranspose3d),
        *(QuantizedEmbedding, QuantizedEmbeddingBag),
        *(QuantizedLSTM, QuantizedGRU, QuantizedRNN),
        *(QuantizedLSTMCell, QuantizedGRUCell, QuantizedRNNCell),
        QuantizedParametrizationList,
    )
}
"""Quantized class of each float class. A class that extends one of these is quantized
by a class that extends both; any other class by one that extends `QuantizedOther`."""

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm)
_NORM_NAME = re.compile(r"norm(alization)?(\dd)?$", re.IGNORECASE)
_RESERVED = (
    *("float_class", "from_float", "to_float", "quantized"),
    *("latent_weight", "weight_in_use"),
)
"""Members of `QuantizedLayer` that a class cannot have for something else."""


class Place(NamedTuple):
    """A parameter that can be quantized."""

    holder: nn.Module
    """The layer, or the parametrizations that compute its weight."""
    name: str
    """Name of the parameter in the holder."""
    gates: int
    """Number of gates stacked in dimension 0."""


def is_normalization(module: nn.Module) -> bool:
    """Return whether a module normalizes: its weight scales its output."""
    names = [cls.__name__ for cls in type(module).__mro__]
    return isinstance(module, _NORMS) or any(map(_NORM_NAME.search, names))


def _kind(module: nn.Module) -> Type[QuantizedLayer]:
    """Return the quantized class that serves a module's class."""
    found = (QUANTIZED[cls] for cls in type(module).__mro__ if cls in QUANTIZED)
    return next(found, QuantizedOther)


def quantized_class(layer: nn.Module) -> Type[QuantizedLayer]:
    """Return the quantized class of a float layer.

    Raises:
        TypeError: If its class cannot be extended.
    """
    return extended(type(layer), _kind(layer), "Quantized")


def places(module: nn.Module) -> List[Place]:
    """Return the parameters that can be quantized for the weights of one module.

    They are the module's own, or those of its parametrizations.
    """
    kind = _kind(module)
    scripted = isinstance(module, torch.jit.ScriptModule)
    if scripted or (kind is QuantizedOther and is_normalization(module)):
        return []
    return [
        Place(holder, key, gates if len(parameter) % gates == 0 else 1)
        for name, gates in kind.gates(module).items()
        for holder, key, parameter in _sources(module, name)
        if (kind is not QuantizedOther and key == name) or is_matrix(parameter)
        if refusal(holder) is None
    ]


def refusal(holder: nn.Module) -> Optional[str]:
    """Return why the parameters of a module cannot be quantized, None if they can."""
    if isinstance(holder, QuantizedLayer):
        return None
    if isinstance(holder, torch.jit.ScriptModule):
        return "a scripted module cannot be changed"
    if _is_orthogonal(holder):
        return "an orthogonal matrix is computed from it by a product or an exponential"
    return obstacle(holder, _kind(holder), "Quantized", _RESERVED)


def is_matrix(parameter: torch.Tensor) -> bool:
    """Return whether more than one dimension of a parameter is larger than 1."""
    return sum(size > 1 for size in parameter.shape) > 1


def _sources(
    module: nn.Module, name: str
) -> Iterator[Tuple[nn.Module, str, nn.Parameter]]:
    """Yield what a module's weight is computed from: the parameter of that name, else
    those of its re-parametrization, of at least two dimensions."""
    own = module._parameters.get(name)
    if own is not None:
        found = [(module, name, own)]
    elif name in module.__dict__:  # set by the hook of weight norm, pruning, ...
        for suffix in ("_v", "_orig"):
            yield from _sources(module, name + suffix)
        return
    else:
        lists = module._modules.get("parametrizations")
        inside = lists._modules.get(name) if isinstance(lists, nn.ModuleDict) else None
        if not isinstance(inside, ParametrizationList):
            return
        found = [(inside, k, p) for k, p in inside._parameters.items() if p is not None]
    for holder, key, parameter in found:
        if not is_lazy(parameter) and parameter.dim() > 1:
            yield holder, key, parameter


def _is_orthogonal(module: nn.Module) -> bool:
    return isinstance(module, ParametrizationList) and any(
        isinstance(child, parametrizations._Orthogonal) for child in module.children()
    )
