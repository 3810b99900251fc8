"""Variants that are compared, each a process of its own."""

from dataclasses import dataclass
from typing import List, Optional, Sequence


@dataclass(frozen=True)
class Variant:
    """A way to run a recogniser.

    Args:
        method: "engine", "espnet packed", "torch int8", "onnx int8"; "float" stands for
            the float model that the last two are made of.
        bits: Bit width of packed weights, None for other methods.
        mode: Computation with packed weights: "int8" or "exact".
    """

    method: str
    bits: Optional[int] = None
    mode: Optional[str] = None

    def __str__(self) -> str:
        title = TITLES.get(self.method, self.method)
        if self.bits is None:
            return title
        return f"{title} {self.bits} bit{'s' * (self.bits > 1)} {self.mode}"


TITLES = {
    "engine": "engine",
    "espnet packed": "ESPnet, packed",
    "torch int8": "ESPnet, PyTorch dynamic int8",
    "onnx int8": "ONNX Runtime dynamic int8",
}
FLOAT = Variant("float")
TORCH_INT8 = Variant("torch int8")
ONNX_INT8 = Variant("onnx int8")


def variants(
    bits: Sequence[int], espnet_bits: Sequence[int], others: Sequence[str]
) -> List[Variant]:
    """Return all variants: the engine's first."""
    return [
        *(Variant("engine", b, "int8") for b in bits),
        *(Variant("espnet packed", b, "int8") for b in espnet_bits),
        *(Variant(method) for method in others),
    ]
