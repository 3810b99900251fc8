"""How many parameters a model or a checkpoint has, and how many are quantized.

A checkpoint does not say which of its tensors are parameters and which are buffers
(the mel matrix, statistics of normalization); its model does. Every printed size of a
model comes from `count`.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Collection, Dict, Mapping, Optional, Set, Union

import torch
from torch import nn

from espnet_gq.packing import is_packed, load_state_dict, quantized_names
from espnet_gq.packing.checkpoint import QuantizedTensor, tensors
from espnet_gq.packing.stored import is_quantizer_key

_NOT_PARAMETERS = ("num_batches_tracked", "running_mean", "running_var")


@dataclass(frozen=True)
class Count:
    """Parameters of a float model; those of its quantizers do not count.

    Attributes:
        parameters: Number of them; includes buffers where these are unknown.
        quantized: Number of quantized parameters.
        bits: Mean bits per quantized parameter; 32 where none is.
        buffers: Values in tensors that are not parameters; None if unknown.
    """

    parameters: int
    quantized: int
    bits: float
    buffers: Optional[int]

    @property
    def share(self) -> float:
        """Share of the parameters that are quantized, 0 to 1."""
        return self.quantized / self.parameters if self.parameters else 0.0

    def __str__(self) -> str:
        """Return the part of a sentence that all programs print."""
        of = f"{100 * self.share:.1f}% of {self.parameters:,}"
        if self.buffers is None:
            return f"{of} parameters and buffers (no config.yaml to tell them apart)"
        return f"{of} parameters"


def count(
    sizes: Mapping[str, int],
    bits: Mapping[str, float],
    parameters: Optional[Collection[str]],
) -> Count:
    """Count the parameters of a model and its quantized ones.

    Args:
        sizes: Name of each tensor of the float model -> number of its values.
        bits: Name of each quantized tensor -> its bit width.
        parameters: Names of the parameters, None if unknown.
    """
    names = {
        name
        for name in sizes
        if (
            not name.endswith(_NOT_PARAMETERS)
            if parameters is None
            else name in parameters
        )
    }
    total = sum(sizes[name] for name in names)
    if parameters is not None:  # a tensor that layers share is one parameter
        bits = {name: width for name, width in bits.items() if name in names}
    quantized = sum(sizes[name] for name in bits)
    weighted = sum(sizes[name] * width for name, width in bits.items())
    return Count(
        parameters=total,
        quantized=quantized,
        bits=weighted / quantized if quantized else 32.0,
        buffers=sum(sizes.values()) - total if parameters is not None else None,
    )


def parameter_names(module: nn.Module) -> Set[str]:
    """Return the names of a model's own parameters, without those of quantizers."""
    return {name for name, _ in module.named_parameters() if "_quantizer." not in name}


@dataclass(frozen=True)
class Description:
    """A checkpoint's contents in figures.

    Attributes:
        format: "float", "qat" or "packed".
        count: Its parameters.
        file_bytes: Size of the file.
        expected_bytes: Sum of bits x numel / 8 over quantized tensors, and of all
            other tensors at their own precision.
    """

    format: str
    count: Count
    file_bytes: int
    expected_bytes: float

    @property
    def num_params(self) -> int:
        """Parameters of the float model."""
        return self.count.parameters

    @property
    def quantized_share(self) -> float:
        """Share of the parameters that are quantized, 0 to 1."""
        return self.count.share

    @property
    def bits(self) -> float:
        """Mean bits per quantized parameter; 32 where none is."""
        return self.count.bits


def describe(
    path: Union[str, Path], parameters: Optional[Collection[str]] = None
) -> Description:
    """Describe a float, QAT or packed checkpoint.

    Args:
        path: The file.
        parameters: Names of its model's parameters (`parameter_names`); without them
            buffers count as parameters.

    Raises:
        FileNotFoundError, ValueError: If the file cannot be read as a checkpoint.
    """
    state = load_state_dict(path, mmap=True)
    packed = is_packed(state)
    sizes: Dict[str, int] = {}
    bits: Dict[str, float] = {}
    rest = 0
    if packed:  # without unpacking it: the float model may not fit in memory
        for name, value in tensors(state):
            if isinstance(value, QuantizedTensor):
                sizes[name] = math.prod(value.shape)
                bits[name] = float(value.quantizer.bits)
            elif torch.is_tensor(value):
                sizes[name] = value.numel()
                rest += value.numel() * value.element_size()
    else:
        names = set(quantized_names(state))
        bits = {n: float(state[f"{n}_quantizer.saved_state"][0]) for n in names}
        own = {k: v for k, v in state.items() if not is_quantizer_key(k, names)}
        sizes = {k: v.numel() for k, v in own.items()}
        rest = sum(
            v.numel() * v.element_size() for k, v in own.items() if k not in names
        )
    counted = count(sizes, bits, parameters)
    return Description(
        format="packed" if packed else "qat" if bits else "float",
        count=counted,
        file_bytes=Path(path).stat().st_size,
        expected_bytes=counted.quantized * counted.bits / 8 + rest,
    )
