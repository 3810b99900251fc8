"""Which parameters of a module are quantized, which are left float, and why."""

import logging
from dataclasses import dataclass
from typing import Dict, Iterator, Mapping, Optional, Set, Tuple

from torch import nn
from torch.nn.parameter import is_lazy

from espnet_gq.nn.kinds import is_matrix, is_normalization, places, refusal
from espnet_gq.nn.layers import QuantizedLayer
from espnet_gq.quantizer import Quantizer

EXPECTED = 0.95
"""Where a smaller share than this is quantized, of the parameters in matrices that no
rule left float, the summary is logged as a warning."""
VECTOR = "a vector (bias, normalization)"
BY_CONFIGURATION = "gq_conf"
RULE = "rule "


@dataclass(frozen=True)
class LeftFloat:
    """A parameter that is not quantized."""

    name: str
    kind: str
    """Class of the module that holds it."""
    numel: int
    reason: str


@dataclass(frozen=True)
class Summary:
    """The quantized and the float parameters of a module. Shared tensors count once."""

    quantized: Mapping[str, int]
    """Bits of each quantized parameter, by its name."""
    numel: Mapping[str, int]
    """Number of weights in each quantized parameter."""
    left: Tuple[LeftFloat, ...]
    """The other parameters."""
    buffers: int = 0
    """Number of values in persistent buffers; those of quantizers do not count."""

    @property
    def total(self) -> int:
        """Parameters of the module."""
        return sum(self.numel.values()) + sum(p.numel for p in self.left)

    @property
    def share(self) -> float:
        """Share of the parameters that is quantized, 0 to 1."""
        return sum(self.numel.values()) / max(self.total, 1)

    @property
    def effective_bits(self) -> float:
        """Mean bits per quantized weight, 32 where there is none."""
        weights = sum(self.numel.values())
        if not weights:
            return 32.0
        return sum(self.quantized[n] * k for n, k in self.numel.items()) / weights

    def left_by_kind(self) -> str:
        """Return what is left float, by class and reason, largest first."""
        kinds: Dict[Tuple[str, str], int] = {}
        for p in self.left:
            key = ("", VECTOR) if p.reason == VECTOR else (p.kind, p.reason)
            kinds[key] = kinds.get(key, 0) + p.numel
        parts = [
            f"{numel:,} parameters {f'of {kind} ' if kind else ''}({reason})"
            for (kind, reason), numel in sorted(kinds.items(), key=lambda i: -i[1])
        ]
        return "left float: " + ("; ".join(parts) or "nothing")

    def __str__(self) -> str:
        return (
            f"{len(self.quantized)} tensors with {sum(self.numel.values()):,} of "
            f"{self.total:,} parameters ({100 * self.share:.1f}%) quantized to "
            f"{self.effective_bits:.2f} bits; {self.left_by_kind()}"
        )

    def log(self) -> None:
        """Log the summary, as a warning where much is left float without a rule."""
        asked = (VECTOR, BY_CONFIGURATION)
        lost = sum(
            p.numel
            for p in self.left
            if p.reason not in asked and not p.reason.startswith(RULE)
        )
        weights = sum(self.numel.values())
        much = lost > (1 - EXPECTED) * (weights + lost)
        logging.log(logging.WARNING if much else logging.INFO, f"GQ: {self}")


def summarize(
    module: nn.Module, reasons: Optional[Mapping[int, str]] = None
) -> Summary:
    """Return what of a module is quantized, and what is left float and why.

    Args:
        module: Any module, prepared or not.
        reasons: Reasons for parameters, by id, that the module itself does not show.
    """
    quantized: Dict[str, int] = {}
    numel: Dict[str, int] = {}
    seen = set()
    for name, layer in module.named_modules():
        if isinstance(layer, QuantizedLayer):
            for weight, parameter, quantizer in layer.quantized():
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    key = f"{name}.{weight}" if name else weight
                    quantized[key], numel[key] = quantizer.bits, parameter.numel()
                seen.update(id(p) for p in quantizer.parameters())
    left = []
    known = {
        (id(place.holder), place.name)
        for child in module.modules()
        for place in places(child)
    }
    for name, holder, weight, parameter in _held_parameters(module):
        if id(parameter) not in seen:
            seen.add(id(parameter))
            reason = (reasons or {}).get(id(parameter))
            reason = reason or _reason(holder, weight, parameter, known)
            kind = getattr(holder, "float_class", type(holder)).__name__
            numel_left = 0 if is_lazy(parameter) else parameter.numel()
            left.append(LeftFloat(name, kind, numel_left, reason))
    return Summary(quantized, numel, tuple(left), _values_in_buffers(module))


def _values_in_buffers(module: nn.Module) -> int:
    return sum(
        buffer.numel()
        for holder in module.modules()
        if not isinstance(holder, Quantizer)
        for name, buffer in holder._buffers.items()
        if buffer is not None and name not in holder._non_persistent_buffers_set
    )


def _held_parameters(
    module: nn.Module,
) -> Iterator[Tuple[str, nn.Module, str, nn.Parameter]]:
    for name, holder in module.named_modules():
        for weight, parameter in holder._parameters.items():
            if parameter is not None:
                key = f"{name}.{weight}" if name else weight
                yield key, holder, weight, parameter


def _reason(
    holder: nn.Module, weight: str, parameter: nn.Parameter, known: Set[Tuple[int, str]]
) -> str:
    if (id(holder), weight) in known:
        return BY_CONFIGURATION
    if is_lazy(parameter):
        return "its shape is known only after the first call"
    if parameter.dim() <= 1 or not is_matrix(parameter):
        return VECTOR
    if is_normalization(holder):
        return "a normalization"
    refused = refusal(holder)
    if refused is not None and _would_be(holder, weight):
        return refused
    name = getattr(holder, "float_class", type(holder)).__name__
    return f"{weight} of {name} has no quantized form"


def _would_be(holder: nn.Module, weight: str) -> bool:
    """Return whether a parameter could be quantized if its holder could be changed."""
    return weight.startswith(("weight", "original")) or weight.endswith("_proj_weight")
