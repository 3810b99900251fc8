"""How many bits each weight of a trained model gets: by a gq_conf or by a budget.

Without data a budget is kept by weight error. The cost of a tensor w at b bits is

    e(w, b) = ||w - q_b(w)||^2 / ||w||^2,

the noise that quantizing adds to what its layer computes, relative to the signal, for
inputs without preferred directions. The costs of the tensors are taken to add up.
"""

import math
import random
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import torch

from espnet_gq.analysis.allocation import allocate
from espnet_gq.analysis.sensitivity import (
    Cost,
    Sensitivity,
    TensorCosts,
    packed_bytes,
)
from espnet_gq.calibration.codebooks import (
    fit_codebook,
    nearest,
    relative_error,
    weights,
)
from espnet_gq.nn import GQConfig, GQConfigError
from espnet_gq.packing.writer import compressed_header

WIDTHS = tuple(range(1, 9))
FILE_BYTES = 1500
"""What torch.save adds to header and data, to within some hundred bytes."""


@dataclass(frozen=True)
class Weight:
    """A tensor that can be quantized."""

    layer: str
    """Name of its layer inside the model."""
    attribute: str
    """Name of the parameter inside the layer."""
    shape: Tuple[int, ...]
    gates: int

    @property
    def name(self) -> str:
        """Name of the parameter inside the model."""
        return f"{self.layer}.{self.attribute}" if self.layer else self.attribute

    @property
    def numel(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Plan:
    """What each tensor gets.

    Attributes:
        options: Name -> arguments of the quantizer, of those to quantize.
        left: Name -> why it stays float, of those that a rule leaves float.
    """

    options: Dict[str, Dict[str, Any]]
    left: Dict[str, str]

    @property
    def bits(self) -> Dict[str, int]:
        """Name -> bit width."""
        return {name: options["bits"] for name, options in self.options.items()}


def plan_of(config: GQConfig, targets: Sequence[Weight]) -> Plan:
    """Return what a configuration gives to each tensor.

    Args:
        config: Its patterns are names inside the whole model.
        targets: What can be quantized.

    Raises:
        GQConfigError: If a pattern matches nothing, or nothing is left to quantize.
    """
    for rule in config.rules:
        if not any(rule.matches(t.layer, t.attribute) for t in targets):
            names = ", ".join(t.layer for t in targets[:4])
            raise GQConfigError(
                f"gq_conf.rules: pattern {rule.pattern!r} matches no layer that can be "
                f"quantized; allowed: a pattern for one of {names}, ..."
            )
    options: Dict[str, Dict[str, Any]] = {}
    left: Dict[str, str] = {}
    for target in targets:
        found = config.quantizer_options(target.layer, target.attribute)
        if found is None:
            left[target.name] = "a rule leaves it float"
        else:
            found["granularity"] = found["granularity"] or "channel"
            options[target.name] = found
    if not options:
        raise GQConfigError("gq_conf: its rules leave everything float")
    return Plan(options, left)


def plan_within(
    targets: Sequence[Weight],
    value: Callable[[str], torch.Tensor],
    unquantized: Mapping[str, torch.Tensor],
    effective_bits: Optional[float] = None,
    max_size: Optional[float] = None,
    progress: Callable[[str], None] = lambda line: None,
) -> Plan:
    """Return the bit widths of least summed weight error that keep to a budget.

    Args:
        targets: What can be quantized.
        value: Name -> weight.
        unquantized: All other tensors of the model, by name.
        effective_bits: Most bits of a quantized weight, in the mean.
        max_size: Most bytes of the packed file. One of the two is given.
        progress: Called with a line per tensor.

    Raises:
        ValueError: If no choice of widths keeps to the budget, or a weight is NaN or
            infinite.
    """
    costs: List[TensorCosts] = []
    for number, target in enumerate(targets, 1):
        costs.append(_costs(target, value(target.name)))
        progress(f"[{number}/{len(targets)}] weight error of {target.name}")
    rest = _rest(costs, unquantized)
    sensitivity = Sensitivity(
        task="",
        model="",
        data={},
        bits=list(WIDTHS),
        base_loss=0.0,
        utterances=0,
        unquantized={
            "numel": sum(t.numel() for t in unquantized.values()),
            "bytes": rest,
        },
        unmeasured=0,
        tensors=costs,
    )
    found = allocate(sensitivity, effective_bits=effective_bits, max_size=max_size)
    options = {name: channel_options(width) for name, width in found.bits.items()}
    return Plan(options, {})


def channel_options(bits: int) -> Dict[str, Any]:
    """Return the arguments of a quantizer with a scale per output channel."""
    found = GQConfig(bits=bits, granularity="channel").options(None)
    assert found is not None
    return found


def _costs(target: Weight, w: torch.Tensor) -> TensorCosts:
    costs = {}
    for bits in WIDTHS:
        try:
            stored = fit_codebook(w, channel_options(bits), target.gates)
        except ValueError as e:
            raise ValueError(f"{target.name}: {e}") from None
        error = relative_error(w, weights(nearest(w, stored), stored)) ** 2
        scales = stored.log_scale.numel()
        costs[bits] = Cost(
            loss=error,
            second_order=error,
            bytes=packed_bytes(target.numel, bits, scales),
            scales=scales,
        )
    return TensorCosts(target.name, target.shape, costs)


def _rest(costs: Sequence[TensorCosts], unquantized: Mapping[str, torch.Tensor]) -> int:
    """Return the bytes of a packed file beside the quantized tensors.

    Its compressed header is largest with widths that are mixed at random.
    """
    draw = random.Random(0)
    entries: List[Dict[str, Any]] = [
        {
            "name": tensor.name,
            "shape": tensor.shape,
            "bits": draw.choice(WIDTHS),
            "scales": tensor.shape[0],
        }
        for tensor in costs
    ]
    entries += [
        {"name": name, "shape": list(t.shape), "dtype": str(t.dtype)[6:]}
        for name, t in unquantized.items()
    ]
    values = sum(t.numel() * t.element_size() for t in unquantized.values())
    return values + len(compressed_header(entries)) + FILE_BYTES
