"""Variants of inference that are compared, their ratios, and targets for these."""

from dataclasses import asdict, dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence

from benchmarks.measuring import spread


@dataclass(frozen=True)
class Variant:
    """A way to run a model or a layer.

    Args:
        method: "float32", "torch int8" (dynamic), "onnx int8" (DynamicQuantizeMatMul),
            "onnx" (MatMulNBits) or "packed".
        bits: Bit width of packed weights and of MatMulNBits.
        mode: Computation of packed layers: "int8" or "exact".
    """

    method: str
    bits: Optional[int] = None
    mode: Optional[str] = None

    def __str__(self) -> str:
        if self.bits is None:
            return self.method
        width = f"{self.method} {self.bits} bit{'s' * (self.bits > 1)}"
        return width if self.mode is None else f"{width} {self.mode}"

    @property
    def stored_bits(self) -> int:
        """Bits per weight of a Linear layer in memory."""
        return self.bits or (32 if self.method == "float32" else 8)

    @property
    def own_8_bits(self) -> "Variant":
        """The packed 8-bit variant of the same mode."""
        return Variant("packed", 8, self.mode)


FLOAT = Variant("float32")
TORCH_INT8 = Variant("torch int8")
ONNX_INT8 = Variant("onnx int8")
ONNX = [ONNX_INT8, *(Variant("onnx", bits) for bits in (8, 4, 2))]
"""Contestants where ONNX Runtime is installed."""


def variants(bits: Sequence[int], modes: Sequence[str]) -> List[Variant]:
    """Return all variants that are compared."""
    packed = [Variant("packed", b, mode) for mode in modes for b in bits]
    return [FLOAT, TORCH_INT8, *packed]


def ratios(
    found: Mapping[Variant, Sequence[float]], variant: Variant, base: Variant
) -> Optional[Dict[str, float]]:
    """Return the spread of the ratios to another variant; None if it was not measured.

    Values of the same round or utterance are compared.
    """
    if base not in found:
        return None
    pairs = zip(found[variant], found[base])
    return spread([a / b for a, b in pairs if b > 0] or [float("nan")])


def behind_best(
    found: Mapping[Variant, Sequence[float]], variant: Variant
) -> Optional[Dict[str, float]]:
    """Return the spread of the ratios to the fastest 8-bit contestant of each round."""
    others = [found[base] for base in (TORCH_INT8, ONNX_INT8) if base in found]
    if not others:
        return None
    pairs = zip(found[variant], (min(values) for values in zip(*others)))
    return spread([a / b for a, b in pairs if b > 0] or [float("nan")])


def figures(seconds: Mapping[Variant, Sequence[float]]) -> List[Dict[str, Any]]:
    """Return one dict per variant with its times and their ratios to the others."""
    return [
        dict(
            asdict(variant),
            seconds=spread(values),
            x_float32=ratios(seconds, variant, FLOAT),
            x_torch_int8=ratios(seconds, variant, TORCH_INT8),
            x_onnx_int8=ratios(seconds, variant, ONNX_INT8),
            x_best_int8=behind_best(seconds, variant),
            x_own_8_bits=ratios(seconds, variant, variant.own_8_bits),
        )
        for variant, values in seconds.items()
    ]


def variant_of(row: Mapping[str, Any]) -> Variant:
    """Return the variant that a dict of figures describes."""
    return Variant(row["method"], row["bits"], row["mode"])


@dataclass(frozen=True)
class Aim:
    """A measured ratio and its target, the maximum `most`."""

    what: str
    value: float
    most: float
    note: str = ""

    def record(self) -> Dict[str, Any]:
        """Return the dict for the JSON file."""
        return dict(asdict(self), reached=self.value <= self.most)

    def __str__(self) -> str:
        verdict = "reached" if self.value <= self.most else "not reached"
        note = f"; {self.note}" if self.note else ""
        target = f"target: {self.most:.2f}, {verdict}"
        return f"{self.what}: {self.value:.3f} ({target}){note}"
