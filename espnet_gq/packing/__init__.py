"""The packed checkpoint's format."""

from torch import nn

from espnet_gq.nn.finite import check_finite
from espnet_gq.nn.layers import QuantizedLayer
from espnet_gq.packing.checkpoint import (
    CheckpointError,
    PackedFormatError,
    harden_state_dict,
    is_packed,
    load_object,
    load_state_dict,
    pack_state_dict,
    save,
    unpack_state_dict,
)
from espnet_gq.packing.loading import load_packed
from espnet_gq.packing.stored import (
    QUANTIZER_KEYS,
    StoredQuantizer,
    quantized_names,
    stored_quantizer,
)

__all__ = [
    "CheckpointError",
    "PackedFormatError",
    "QUANTIZER_KEYS",
    "StoredQuantizer",
    "harden_state_dict",
    "is_packed",
    "load_object",
    "load_packed",
    "load_state_dict",
    "pack",
    "pack_state_dict",
    "quantized_names",
    "save",
    "stored_quantizer",
    "unpack_state_dict",
]


def pack(module: nn.Module) -> dict:
    """Return the packed state dict of a prepared module, which does not change.

    Quantizers that were never trained are fitted (post-training quantization).

    Raises:
        NotFiniteError: If a parameter is NaN or infinite; names it.
        ValueError: If nothing is quantized, or a tensor cannot be stored.
    """
    parameters = list(module.named_parameters(remove_duplicate=False))
    check_finite(parameters)
    state = module.state_dict()
    buffers = {key for key in state if not key.endswith("_quantizer.saved_state")}
    buffers -= {name for name, _ in parameters}
    for prefix, layer in module.named_modules(remove_duplicate=False):
        if isinstance(layer, QuantizedLayer):
            for name, weight, quantizer in layer.quantized():
                at = f"{prefix}.{name}" if prefix else name
                fitted = quantizer.fitted_to(weight).state_dict()
                state.update({f"{at}_quantizer.{k}": v for k, v in fitted.items()})
    return pack_state_dict(state, buffers)
