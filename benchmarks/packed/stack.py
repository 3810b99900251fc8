"""Time of one step through the LSTM layers of the 100 M transducer's encoder.

8 layers of 1280 units, each followed by a projection to 640: 85 M weights, more than
caches hold, so that a step reads all of them from memory.
"""

from typing import Any, Callable, Dict, List, Sequence

import torch
from torch import nn

from benchmarks.measuring import interleave, seconds_clock
from benchmarks.packed import onnx_layers
from benchmarks.packed.variants import (
    FLOAT,
    ONNX_INT8,
    TORCH_INT8,
    Aim,
    Variant,
    figures,
    variant_of,
)
from benchmarks.report import median_cell, progress, spread_cell
from espnet_gq.analysis.tables import markdown
from espnet_gq.quantizer.mulaw import codebook
from espnet_gq.runtime import PackedWeight
from espnet_gq.runtime.layers import PackedLinear
from espnet_gq.runtime.layout import planes_size
from espnet_gq.runtime.pages import empty_planes
from espnet_gq.runtime.recurrent import PackedLSTM

LAYERS, INPUTS, UNITS = 8, 640, 1280
QUICK = 2, 32, 64
AIMS = {8: 1.0, 5: 0.70}
"""Target ratios to DynamicQuantizeLSTM, mode int8."""


def _packed(variant: Variant, rows: int, cols: int) -> PackedWeight:
    assert variant.bits is not None and variant.mode is not None
    size = planes_size(rows, cols, variant.bits)
    planes = empty_planes(size).random_(0, 256)
    centroids, _ = codebook(torch.zeros(1), variant.bits)
    weight = PackedWeight(planes, (rows, cols), centroids, torch.full((1,), 0.05))
    weight.mode = variant.mode
    return weight


class Stack(nn.Module):
    """LSTM layers and projections by turns.

    Args:
        layers, inputs, units: Their number, and sizes.
    """

    def __init__(self, layers: int, inputs: int, units: int):
        super().__init__()
        self.lstm = nn.ModuleList(
            nn.LSTM(inputs, units, batch_first=True) for _ in range(layers)
        )
        self.projection = nn.ModuleList(nn.Linear(units, inputs) for _ in range(layers))

    def forward(self, x: torch.Tensor, states: Sequence[Any]) -> Any:
        """Return the result and the new states."""
        new = []
        for lstm, projection, state in zip(self.lstm, self.projection, states):
            x, state = lstm(x, state)
            x = projection(x)
            new.append(state)
        return x, new


def step(variant: Variant, sizes: Sequence[int]) -> Callable[[], Any]:
    """Return a function that computes one step of a variant."""
    layers, inputs, units = sizes
    x = torch.randn(1, 1, inputs)
    if variant == ONNX_INT8:
        made = onnx_layers.lstm_stack(layers, inputs, units)
        given = [x, *(torch.zeros(1, 1, units) for _ in range(2 * layers))]
        return lambda: made(*given)
    stack: Any = Stack(layers, inputs, units).eval()
    if variant == TORCH_INT8:
        stack = torch.ao.quantization.quantize_dynamic(stack, {nn.LSTM, nn.Linear})
    elif variant.bits is not None:
        for i in range(layers):
            lstm = {
                "weight_ih_l0": _packed(variant, 4 * units, inputs),
                "weight_hh_l0": _packed(variant, 4 * units, units),
            }
            stack.lstm[i] = PackedLSTM.from_float(stack.lstm[i], lstm)
            linear = {"weight": _packed(variant, inputs, units)}
            stack.projection[i] = PackedLinear.from_float(stack.projection[i], linear)
    state = torch.zeros(1, 1, units)
    states = [(state, state.clone()) for _ in range(layers)]
    return lambda: stack(x, states)


def _timed(call: Callable[[], Any], count: int) -> Callable[[], float]:
    clock = seconds_clock(torch.get_num_threads())

    def seconds() -> float:
        start = clock()
        for _ in range(count):
            call()
        return (clock() - start) / count

    return seconds


@torch.no_grad()
def measure(compared: Sequence[Variant], rounds: int, quick: bool) -> Dict[str, Any]:
    """Measure every variant."""
    chosen = [v for v in compared if v != FLOAT and v.mode != "exact"]
    if onnx_layers.missing() is None:
        chosen.append(ONNX_INT8)
    sizes = QUICK if quick else (LAYERS, INPUTS, UNITS)
    calls = {v: _timed(step(v, sizes), 2) for v in chosen}
    for call in calls.values():
        call()
    found = interleave(calls, rounds)
    progress("stack")
    return dict(sizes=sizes, rounds=rounds, variants=figures(found))


HEADER = ("variant", "ms (min..max)", "x own 8 bits", "x torch int8", "x onnx int8")


def lines(found: Dict[str, Any]) -> List[str]:
    """Format the table."""
    layers, inputs, units = found["sizes"]
    keys = ("x_own_8_bits", "x_torch_int8", "x_onnx_int8")
    rows = [
        [
            str(variant_of(row)),
            spread_cell(row["seconds"], 1e-3, 2),
            *(median_cell(row[key]) for key in keys),
        ]
        for row in found["variants"]
    ]
    what = (
        f"{layers} LSTM layers of {units} units, each projected to {inputs}: one step"
    )
    said = onnx_layers.missing()
    return ["", what, "", markdown(HEADER, rows), *([said] if said else [])]


def aims(found: Dict[str, Any]) -> List[Aim]:
    """Compare with the targets."""
    return [
        Aim(f"{row['bits']} bits over DynamicQuantizeLSTM", ratio["median"], most)
        for row in found["variants"]
        for bits, most in AIMS.items()
        if row["bits"] == bits and (ratio := row["x_onnx_int8"]) is not None
    ]
