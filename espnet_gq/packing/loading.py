"""A packed file straight into packed layers: the float weights are never in memory."""

import zipfile
from pathlib import Path
from typing import IO, Any, Dict, Mapping, Optional, Union

import torch
from torch import nn

from espnet_gq.nn.layers import QuantizedLayer
from espnet_gq.packing.checkpoint import (
    PackedFormatError,
    QuantizedTensor,
    is_packed,
    load_state_dict,
    tensors,
)
from espnet_gq.runtime import PackedWeight, install, set_mode


def _data_record(packed: Mapping[str, Any], file: zipfile.ZipFile) -> Optional[IO]:
    """Return a reader of the data in torch.save's archive, None if it is not clear."""
    size = packed["data"].numel()
    records = [r for r in file.infolist() if r.file_size == size]
    if len(records) != 1 or records[0].compress_type != zipfile.ZIP_STORED:
        return None
    return file.open(records[0])


def _weight(tensor: QuantizedTensor) -> PackedWeight:
    return PackedWeight.from_stream(
        tensor.stream, tensor.shape, tensor.codebook, tensor.scale
    )


def load_packed(
    model: nn.Module,
    source: Union[str, Path, Mapping[str, Any]],
    mode: str = "exact",
) -> nn.Module:
    """Make a model compute with the weights of a packed checkpoint, in place.

    Args:
        model: The float or prepared model, best built within `runtime.skeleton`, which
            keeps its float weights out of memory.
        source: A packed file, or the dict of `pack`.
        mode: "exact" or "int8", see `runtime.set_mode`.

    Returns:
        The model.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a packed checkpoint, or not this model's.
        PackedFormatError: If it is damaged, hostile or of another version.
    """
    if isinstance(source, Mapping):
        return _load(model, source, None, mode)
    packed = load_state_dict(source, mmap=True)
    if not is_packed(packed):
        raise ValueError(f"{source} is not a packed checkpoint; allowed: what pack wrote")
    if not torch.is_tensor(packed.get("data")):
        raise PackedFormatError(f"{source}: 'data' is not a tensor")
    try:
        with zipfile.ZipFile(source) as archive:
            return _load(model, packed, _data_record(packed, archive), mode)
    except (PackedFormatError, zipfile.BadZipFile) as e:
        raise PackedFormatError(f"{source}: {e}") from None
    except ValueError as e:
        raise ValueError(f"{source}: {e}") from None


def _load(model: nn.Module, packed, file: Optional[IO], mode: str) -> nn.Module:
    weights: Dict[str, Dict[str, PackedWeight]] = {}
    others: Dict[str, torch.Tensor] = {}
    expected = _expected(model)
    for name, tensor in tensors(packed, file):
        if name not in expected:
            raise ValueError(f"it has '{name}', which the model lacks")
        if tuple(tensor.shape) != tuple(expected[name]):
            raise ValueError(
                f"'{name}' has shape {tuple(tensor.shape)}; the model's has "
                f"{tuple(expected.pop(name))}"
            )
        del expected[name]
        layer, _, parameter = name.rpartition(".")
        if torch.is_tensor(tensor):
            others[name] = tensor
        else:
            weights.setdefault(layer, {})[parameter] = _weight(tensor)
    if expected:
        raise ValueError(
            f"it lacks {len(expected)} tensors of the model, such as "
            f"'{next(iter(expected))}'"
        )
    install(model, weights)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, QuantizedLayer):
            raise ValueError(f"it has no quantized weight for '{name}', which has to be")
    for name, tensor in others.items():
        _give(model, name, tensor)
    for module in model.modules():
        # Some of ESPnet's decoders remember the device they were built on.
        if getattr(module, "device", None) == torch.device("meta"):
            module.device = torch.device("cpu")
    set_mode(model, mode)
    return model


def _expected(model: nn.Module) -> Dict[str, torch.Size]:
    """Return the shapes of what a packed file of the model holds."""
    quantizers = tuple(
        f"{name}.{child}."
        for name, layer in model.named_modules()
        if isinstance(layer, QuantizedLayer)
        for child in layer._modules
        if child.endswith("_quantizer")
    )
    return {
        name: tensor.shape
        for name, tensor in model.state_dict().items()
        if not name.startswith(quantizers)
    }


def _give(model: nn.Module, name: str, tensor: torch.Tensor) -> None:
    """Give a parameter or a buffer its value; one without memory gets the tensor."""
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    held = module._parameters.get(leaf)
    if held is None:
        held = module._buffers[leaf]
    if held.device.type != "meta":
        with torch.no_grad():
            held.copy_(tensor)
    elif leaf in module._parameters:
        module._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)
    else:
        module._buffers[leaf] = tensor

