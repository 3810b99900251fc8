"""Functions on a whole module: build it without weights, pack it, set its mode."""

import contextlib
from typing import Dict, Iterator, Mapping, Optional, Type

from torch import nn

from espnet_gq.native.library import MODES
from espnet_gq.runtime.layers import (
    PackedConv1d,
    PackedConv2d,
    PackedEmbedding,
    PackedLayer,
    PackedLinear,
)
from espnet_gq.runtime.recurrent import (
    PackedGRU,
    PackedGRUCell,
    PackedLSTM,
    PackedLSTMCell,
)
from espnet_gq.runtime.weight import PackedWeight

PACKED: Dict[Type[nn.Module], Type[PackedLayer]] = {
    cls.float_class: cls
    for cls in (
        *(PackedLinear, PackedConv1d, PackedConv2d, PackedEmbedding),
        *(PackedLSTM, PackedGRU, PackedLSTMCell, PackedGRUCell),
    )
}
"""Packed class of each float class; a quantized layer extends its float class."""

_WITH_WEIGHTS = (
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Embedding),
    *(nn.RNNBase, nn.RNNCellBase),
)


@contextlib.contextmanager
def skeleton() -> Iterator[None]:
    """Within the block, layers are built without memory for their parameters.

    Their parameters are on the device "meta" until they get their values, and modules
    cannot be moved to another device.
    """
    originals = {cls: cls.__init__ for cls in _WITH_WEIGHTS}

    def without_memory(original):
        def __init__(self, *args, **kwargs):
            kwargs["device"] = "meta"
            original(self, *args, **kwargs)

        return __init__

    move = nn.Module.to
    setattr(nn.Module, "to", lambda self, *args, **kwargs: self)
    for cls, original in originals.items():
        setattr(cls, "__init__", without_memory(original))
    try:
        yield
    finally:
        setattr(nn.Module, "to", move)
        for cls, original in originals.items():
            setattr(cls, "__init__", original)


def packed_class(layer: nn.Module) -> Optional[Type[PackedLayer]]:
    """Return the packed class of a float or quantized layer, None if it has none."""
    return next((p for f, p in PACKED.items() if isinstance(layer, f)), None)


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
