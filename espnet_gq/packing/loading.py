"""Loading a packed file into packed layers, without float weights in memory."""

import contextlib
import zipfile
from pathlib import Path
from typing import (
    IO,
    Any,
    Dict,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Union,
    cast,
)
from weakref import WeakKeyDictionary

import torch
from torch import nn

from espnet_gq.nn.prepare import quantized_layers
from espnet_gq.packing.checkpoint import (
    CheckpointError,
    Extra,
    PackedFormatError,
    QuantizedTensor,
    is_packed,
    load_state_dict,
    tensors,
)
from espnet_gq.runtime import PackedWeight, install, set_mode


@contextlib.contextmanager
def _data_record(packed: Mapping[str, Any], path) -> Iterator[Optional[IO[bytes]]]:
    """Yield a reader of the data in torch.save's archive, None if it is ambiguous."""
    size = packed["data"].numel()
    with contextlib.ExitStack() as stack:
        try:
            archive = stack.enter_context(zipfile.ZipFile(path))
            records = [r for r in archive.infolist() if r.file_size == size]
            clear = len(records) == 1 and records[0].compress_type == zipfile.ZIP_STORED
            file = stack.enter_context(archive.open(records[0])) if clear else None
        except Exception:  # what zipfile raises for damaged archives is not documented
            file = None
        yield file


def _weight(tensor: QuantizedTensor) -> PackedWeight:
    return PackedWeight.from_stream(
        tensor.stream, tensor.shape, tensor.codebook, tensor.quantizer.scale
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
        CheckpointError: If it is not a packed checkpoint, or not this model's.
        PackedFormatError: If it is damaged, hostile or of another version.
    """
    if isinstance(source, Mapping):
        return _load(model, source, None, mode)
    packed = load_state_dict(source, mmap=True)
    if not is_packed(packed):
        raise CheckpointError(
            f"{source} is not a packed checkpoint; allowed: what pack wrote"
        )
    if not torch.is_tensor(packed.get("data")):
        raise PackedFormatError(f"{source}: 'data' is not a tensor")
    try:
        with _data_record(packed, source) as file:
            return _load(model, packed, file, mode)
    except PackedFormatError as e:
        raise PackedFormatError(f"{source}: {e}") from None
    except ValueError as e:
        raise CheckpointError(f"{source}: {e}") from None


def _load(model: nn.Module, packed, file: Optional[IO], mode: str) -> nn.Module:
    state: Dict[str, Any] = {}
    weights: Dict[int, PackedWeight] = {}
    made: WeakKeyDictionary[QuantizedTensor, Dict[int, PackedWeight]]
    made = WeakKeyDictionary()
    own = {n: id(p) for n, p in model.named_parameters(remove_duplicate=False)}
    for name, value in tensors(packed, file):
        if isinstance(value, QuantizedTensor):
            # A placeholder of the weight while the model loads the state dict: layers
            # may rename keys of earlier releases.
            place = torch.empty(value.shape, device="meta", dtype=torch.float32)
            place = nn.Parameter(place, requires_grad=False)
            # Parameters that the model shares share a packed weight; others only have
            # equal values, and get their own.
            found, key = made.setdefault(value, {}), own.get(name, id(place))
            if key not in found:
                found[key] = _weight(value)
            weights[id(place)] = found[key]
            value = place
        state[name] = value.value if isinstance(value, Extra) else value
    dtypes = _dtypes(model)
    parameters = _parameters(model)
    try:
        found = model.load_state_dict(state, strict=False, assign=True)
    except RuntimeError as e:  # of another shape
        raise ValueError(first_mismatch(e)) from None
    _tie(parameters, weights)
    missing = [name for name in found.missing_keys if "_quantizer." not in name]
    for what, names in (("lacks", missing), ("also has", found.unexpected_keys)):
        if names:
            raise ValueError(
                f"it {what} {len(names)} tensors compared with the model, such as "
                f"'{names[0]}'"
            )
    by_layer = _by_layer(model, weights)
    _check_bits(model, by_layer)
    _convert(dtypes, weights)
    install(model, by_layer)
    for module in model.modules():
        # Some of ESPnet's decoders remember the device they were built on.
        if getattr(module, "device", None) == torch.device("meta"):
            setattr(module, "device", torch.device("cpu"))
    for name, parameter in model.named_parameters():
        if parameter.device.type == "meta":
            raise ValueError(f"it has no weight for '{name}', which is to be quantized")
    set_mode(model, mode)
    return model


def _dtypes(model: nn.Module) -> List[Tuple[nn.Module, str, torch.dtype]]:
    """Return the type of each floating-point tensor of a model: its module and name."""
    return [
        (module, name, tensor.dtype)
        for module in model.modules()
        for name, tensor in (*module._parameters.items(), *module._buffers.items())
        if tensor is not None and tensor.is_floating_point()
    ]


def _parameters(model: nn.Module) -> List[Tuple[nn.Module, str, nn.Parameter]]:
    """Return each parameter of a model, once per layer that has it."""
    return [
        (module, name, parameter)
        for module in model.modules()
        for name, parameter in module._parameters.items()
        if parameter is not None
    ]


def _tie(
    parameters: Sequence[Tuple[nn.Module, str, nn.Parameter]],
    weights: Mapping[int, PackedWeight],
) -> None:
    """Let layers that shared a float parameter share the one that was loaded."""
    loaded: Dict[int, nn.Parameter] = {}
    for module, name, before in parameters:
        new = cast(nn.Parameter, module._parameters[name])
        if id(new) not in weights:
            module._parameters[name] = loaded.setdefault(id(before), new)


def _convert(
    dtypes: Sequence[Tuple[nn.Module, str, torch.dtype]],
    weights: Mapping[int, PackedWeight],
) -> None:
    """Convert loaded tensors to the types of the model, as load_state_dict does."""
    converted: Dict[int, nn.Parameter] = {}  # by the one before: some layers share it
    for module, name, dtype in dtypes:
        parameter = module._parameters.get(name)
        if parameter is None:
            buffer = module._buffers.get(name)
            if buffer is not None and buffer.dtype != dtype:
                module._buffers[name] = buffer.to(dtype)
        elif id(parameter) in weights:
            # In place: as a tensor's, a packed weight's own `to` returns another.
            nn.Module.to(weights[id(parameter)], dtype)
        elif parameter.dtype != dtype:
            if id(parameter) not in converted:
                converted[id(parameter)] = nn.Parameter(
                    parameter.detach().to(dtype), requires_grad=parameter.requires_grad
                )
            module._parameters[name] = converted[id(parameter)]


def _check_bits(
    model: nn.Module, weights: Mapping[str, Mapping[str, PackedWeight]]
) -> None:
    """Raise where a weight has another bit width than the model was prepared for."""
    for layer, module in quantized_layers(model):
        for name, _, quantizer in module.quantized():
            weight = weights.get(layer, {}).get(name)
            if weight is not None and weight.bits != quantizer.bits:
                raise ValueError(
                    f"{layer}.{name} has {weight.bits} bits in the file and "
                    f"{quantizer.bits} in the configuration; use the gq_conf of its "
                    "training"
                )


def first_mismatch(error: RuntimeError) -> str:
    """Return what `load_state_dict` raised as one sentence instead of a list."""
    lines = [line.strip().rstrip(".") for line in str(error).splitlines()]
    lines = [line for line in lines[1:] if line] or lines[:1]
    first = lines[0] if len(lines[0]) <= 300 else lines[0][:297] + "..."
    return first + (f", and {len(lines) - 1} more like it" if len(lines) > 1 else "")


def _by_layer(
    model: nn.Module, weights: Mapping[int, PackedWeight]
) -> Dict[str, Dict[str, PackedWeight]]:
    """Return layer name -> parameter name -> weight."""
    found: Dict[str, Dict[str, PackedWeight]] = {}
    for layer, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if id(parameter) in weights:
                found.setdefault(layer, {})[name] = weights[id(parameter)]
    return found
