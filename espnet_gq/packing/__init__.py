"""Bit packing and the packed checkpoint's format."""

from torch import nn

from espnet_gq.nn.prepare import fit_quantizers
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
    """Return the packed state dict of a prepared module.

    Quantizers that were never used are fitted first (post-training quantization).
    """
    fit_quantizers(module)
    return pack_state_dict(module.state_dict())
