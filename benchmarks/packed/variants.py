"""What packed inference is compared with, measurements in turn, figures and aims."""

from dataclasses import asdict, dataclass
from typing import (
    Any,
    Callable,
    Dict,
    Hashable,
    List,
    Mapping,
    Optional,
    Sequence,
    TypeVar,
)

from report import Spread

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Variant:
    """A way to run a model or a layer.

    Args:
        method: "float32", "torch int8" (dynamic) or "packed".
        bits: Bit width of packed weights.
        mode: How packed weights compute: "int8" or "exact".
    """

    method: str
    bits: Optional[int] = None
    mode: Optional[str] = None

    def __str__(self) -> str:
        if self.bits is None:
            return self.method
        return f"{self.method} {self.bits} bit{'s' * (self.bits > 1)} {self.mode}"

    @property
    def stored_bits(self) -> int:
        """Bits a weight of a Linear layer takes in memory."""
        return self.bits or (32 if self.method == "float32" else 8)

    @property
    def own_8_bits(self) -> "Variant":
        """The packed 8 bits of the same mode."""
        return Variant("packed", 8, self.mode)


FLOAT = Variant("float32")
TORCH_INT8 = Variant("torch int8")


def variants(bits: Sequence[int], modes: Sequence[str]) -> List[Variant]:
    """Return all that is compared."""
    packed = [Variant("packed", b, mode) for mode in modes for b in bits]
    return [FLOAT, TORCH_INT8, *packed]


def in_turn(items: Sequence[Key], index: int) -> List[Key]:
    """Return the items, beginning with another one at each index."""
    shift = index % len(items)
    return [*items[shift:], *items[:shift]]


def interleave(
    calls: Mapping[Key, Callable[[], float]], rounds: int
) -> Dict[Key, List[float]]:
    """Return what each call returns in each round.

    A round calls each once, and every round begins with another, so that a slow moment
    of the machine meets all of them.
    """
    found: Dict[Key, List[float]] = {key: [] for key in calls}
    for index in range(rounds):
        for key in in_turn(list(calls), index):
            found[key].append(calls[key]())
    return found


def ratios(
    found: Mapping[Variant, Sequence[float]], variant: Variant, base: Variant
) -> Optional[Dict[str, float]]:
    """Return the spread of the ratios to another variant, None where there is none.

    Values of the same place (round, utterance) are compared.
    """
    if base not in found:
        return None
    pairs = zip(found[variant], found[base])
    return asdict(Spread.of([a / b for a, b in pairs if b > 0] or [float("nan")]))


def figures(seconds: Mapping[Variant, Sequence[float]]) -> List[Dict[str, Any]]:
    """Return a dict for each variant: its times and their ratios to the others."""
    return [
        dict(
            asdict(variant),
            seconds=asdict(Spread.of(values)),
            x_float32=ratios(seconds, variant, FLOAT),
            x_torch_int8=ratios(seconds, variant, TORCH_INT8),
            x_own_8_bits=ratios(seconds, variant, variant.own_8_bits),
        )
        for variant, values in seconds.items()
    ]


def variant_of(row: Mapping[str, Any]) -> Variant:
    """Return the variant that a dict of figures belongs to."""
    return Variant(row["method"], row["bits"], row["mode"])


# --- cells and aims ------------------------------------------------------------------


def spread_cell(spread: Optional[Mapping[str, float]], unit: float, digits: int) -> str:
    """Return "median (min..max)" in a unit."""
    if spread is None:
        return "-"
    low, mid, high = (
        f"{spread[k] / unit:,.{digits}f}" for k in ("min", "median", "max")
    )
    return f"{mid} ({low}..{high})"


def median_cell(spread: Optional[Mapping[str, float]], digits: int = 3) -> str:
    """Return the median alone."""
    return "-" if spread is None else f"{spread['median']:.{digits}f}"


@dataclass(frozen=True)
class Aim:
    """A ratio beside the most that it should be."""

    what: str
    value: float
    most: float
    note: str = ""

    def record(self) -> Dict[str, Any]:
        """Return it for the JSON file."""
        return dict(asdict(self), reached=self.value <= self.most)

    def __str__(self) -> str:
        verdict = "reached" if self.value <= self.most else "not reached"
        note = f"; {self.note}" if self.note else ""
        return f"{self.what}: {self.value:.3f} (aim: {self.most:.2f}, {verdict}){note}"
