"""What a checkpoint file holds, and how much of it is quantized."""

from dataclasses import dataclass
from pathlib import Path
from typing import Tuple, Union

from espnet_gq.packing import (
    QUANTIZER_KEYS,
    is_packed,
    load_state_dict,
    quantized_names,
    unpack_state_dict,
)

_QUANTIZER_SUFFIXES = tuple(f"_quantizer.{key}" for key in QUANTIZER_KEYS)
_NOT_PARAMETERS = ("num_batches_tracked", "running_mean", "running_var")


@dataclass(frozen=True)
class Description:
    """A checkpoint's contents in figures.

    Attributes:
        format: "float", "qat" or "packed".
        num_params: Parameters of the float model (buffers and the quantizers' own
            parameters not counted).
        quantized_share: Share of the parameters that are quantized, 0 to 1.
        bits: Mean bits of a quantized parameter; 32 where none is.
        file_bytes: Size of the file.
        expected_bytes: Sum of bits x numel / 8 over quantized tensors, and of all
            other tensors at their own precision.
    """

    format: str
    num_params: int
    quantized_share: float
    bits: float
    file_bytes: int
    expected_bytes: float


def describe(path: Union[str, Path]) -> Description:
    """Describe a float, QAT or packed checkpoint.

    Raises:
        FileNotFoundError, ValueError: If the file cannot be read as a checkpoint.
    """
    state = load_state_dict(path)
    packed = is_packed(state)
    if packed:
        state = unpack_state_dict(state)
    names = quantized_names(state)
    bits = {n: float(state[f"{n}_quantizer.saved_state"][0]) for n in names}
    quantized, weighted = _totals(state, bits)
    own = {k for k in state if k.endswith(_QUANTIZER_SUFFIXES)}
    params = sum(
        v.numel()
        for k, v in state.items()
        if k not in own and not k.endswith(_NOT_PARAMETERS)
    )
    rest = sum(
        v.numel() * v.element_size()
        for k, v in state.items()
        if k not in own and k not in bits
    )
    return Description(
        format="packed" if packed else "qat" if names else "float",
        num_params=params,
        quantized_share=quantized / params if params else 0.0,
        bits=weighted / quantized if quantized else 32.0,
        file_bytes=Path(path).stat().st_size,
        expected_bytes=weighted / 8 + rest,
    )


def _totals(state, bits) -> Tuple[int, float]:
    numel = sum(state[n].numel() for n in bits)
    return numel, sum(state[n].numel() * b for n, b in bits.items())
