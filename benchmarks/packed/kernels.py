"""Time of one matrix product through the layers, and its share of read bandwidth."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Sequence, Tuple

import torch
from torch import nn

from benchmarks.measuring import MIB, interleave, seconds_clock, spread
from benchmarks.packed import onnx_layers
from benchmarks.packed.variants import (
    ONNX,
    ONNX_INT8,
    TORCH_INT8,
    Aim,
    Variant,
    figures,
    variant_of,
)
from benchmarks.report import median_cell, progress, spread_cell
from espnet_gq.analysis.tables import markdown
from espnet_gq.native import address, loaded
from espnet_gq.quantizer.mulaw import codebook
from espnet_gq.runtime import PackedWeight
from espnet_gq.runtime.layers import PackedLinear
from espnet_gq.runtime.layout import planes_size
from espnet_gq.runtime.pages import empty_planes

CYCLED_BYTES = 160_000_000
"""Minimum total size of the weights that take turns, at 1 byte per weight."""
READ_BYTES = 256 * MIB
READING = Variant("reading")
"""Reads memory in the same rounds, as a reference for the read bandwidth."""
AIMS_OWN = {6: 0.82, 5: 0.70, 4: 0.58}
"""Target ratios to the packed 8-bit time: batch 1, weights beyond L2, mode int8."""
AIMS_TORCH = {6: 0.70, 5: 0.60, 4: 0.50}
"""Target ratios to PyTorch's dynamic int8 under the same conditions."""
AIM_BEST = 1.03
"""Target ratio of 8 bits to the fastest other 8-bit engine, all shapes, mode int8."""
AIM_WORST = 1.10
"""Target ratio to PyTorch's dynamic int8 for all shapes and batch sizes, mode int8."""


@dataclass(frozen=True)
class Case:
    """A product of activations (batch, cols) and a weight (rows, cols).

    Args:
        rows, cols: Shape of the weight.
        batch: Rows of activations.
        beyond: Copies of the weight take turns, so that none stays in cache.
    """

    rows: int
    cols: int
    batch: int
    beyond: bool

    def __str__(self) -> str:
        return f"{self.rows}x{self.cols} at batch {self.batch}"


_BEYOND = ((1024, 1024), (2048, 512), (4096, 1024), (4096, 4096))
_INSIDE = ((64, 64), (256, 256))


def cases(quick: bool) -> List[Case]:
    """Return the products to time, grouped by shape."""
    beyond, batches = (
        (((256, 128),), (1, 4)) if quick else (_BEYOND, (1, 4, 16, 64, 512))
    )
    return [
        Case(rows, cols, batch, (rows, cols) in beyond)
        for rows, cols in (*_INSIDE, *beyond)
        for batch in batches
    ]


def cache_bytes() -> Dict[str, int]:
    """Return the sizes of a core's data caches by level, as far as they are known."""
    found = {}
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            level, kind, size = (
                (index / name).read_text().strip() for name in ("level", "type", "size")
            )
            unit = {"K": 2**10, "M": MIB}[size[-1]]
            if kind != "Instruction":
                found[f"L{level}"] = unit * int(size[:-1])
        except (OSError, KeyError, ValueError, IndexError):
            continue
    return dict(sorted(found.items()))


def copies(case: Case, quick: bool) -> int:
    """Return how many copies of a weight take turns; the same for every variant."""
    if not case.beyond:
        return 1
    amount = (
        MIB if quick else max(CYCLED_BYTES, 5 * max(cache_bytes().values(), default=0))
    )
    return max(1, -(-amount // (case.rows * case.cols)))


def layers(variant: Variant, case: Case, count: int) -> List[nn.Module]:
    """Return `count` layers whose weights do not share memory."""
    torch.manual_seed(0)
    made: List[nn.Module] = []
    if variant == ONNX_INT8:
        return [onnx_layers.int8_product(case.rows, case.cols) for _ in range(count)]
    if variant in ONNX and variant.bits is not None:
        sizes = case.rows, case.cols, variant.bits
        return [onnx_layers.n_bit_product(*sizes) for _ in range(count)]
    if variant.bits is None or variant.mode is None:
        first = nn.Linear(case.cols, case.rows)
        made.append(first)
        for _ in range(count - 1):
            layer = nn.Linear(case.cols, case.rows, device="meta")
            layer.weight = nn.Parameter(first.weight.detach().clone())
            layer.bias = first.bias
            made.append(layer)
        if variant == TORCH_INT8:
            whole = torch.ao.quantization.quantize_dynamic(
                nn.Sequential(*made), {nn.Linear}, inplace=True
            )
            made = list(whole)
        return made
    shape, bits = (case.rows, case.cols), variant.bits
    size = planes_size(*shape, bits)
    centroids, _ = codebook(torch.zeros(1), bits)
    float_layer = nn.Linear(case.cols, case.rows)
    for _ in range(count):
        planes = empty_planes(size).random_(0, 256)
        weight = PackedWeight(planes, shape, centroids, torch.full((1,), 0.05))
        weight.mode = variant.mode
        made.append(PackedLinear.from_float(float_layer, {"weight": weight}))
    return made


def weight_bytes(variant: Variant, case: Case) -> int:
    """Return how many bytes of a weight a product reads."""
    if variant.bits is not None and variant.mode is not None:
        return planes_size(case.rows, case.cols, variant.bits)
    return case.rows * case.cols * variant.stored_bits // 8


class Timed:
    """Products that cycle through copies of a weight; a call returns seconds for each.

    Args:
        made: The layers.
        x: Activations.
        seconds: Approximate duration of a measurement.
    """

    def __init__(self, made: Sequence[nn.Module], x: torch.Tensor, seconds: float):
        self.made, self.x, self.at = made, x, 0
        self.clock = seconds_clock(torch.get_num_threads())
        self.count = 2
        least = min(self() for _ in range(3))
        self.count = max(1, min(2000, int(seconds / max(least, 1e-7))))

    def __call__(self) -> float:
        made, x, at, size = self.made, self.x, self.at, len(self.made)
        made[at - 1](x)  # untimed: brings code and activations into cache
        start = self.clock()
        for i in range(at, at + self.count):
            made[i % size](x)
        seconds = (self.clock() - start) / self.count
        self.at = (at + self.count) % size
        return seconds


def reader(threads: int, size: int) -> Callable[[], float]:
    """Return a function that reads a buffer once and returns bytes per second."""
    buffer, kernels = torch.ones(size, dtype=torch.uint8), loaded()
    if kernels is None:
        raise RuntimeError("the packed kernels were not built")

    def read() -> float:
        start = time.perf_counter()
        kernels.gq_read(
            address(buffer, torch.uint8, size, "the buffer"), size, threads, 0
        )
        return size / (time.perf_counter() - start)

    read()
    return read


def _call_once(made: Iterable[Sequence[nn.Module]], x: torch.Tensor) -> None:
    """Call every layer once, so that one-time work is not timed."""
    for several in made:
        for layer in several:
            layer(x)


@torch.no_grad()
def measure(
    compared: Sequence[Variant], threads: int, rounds: int, quick: bool
) -> List[Dict[str, Any]]:
    """Measure every case; return one dict of figures per case."""
    found: List[Dict[str, Any]] = []
    read = reader(threads, 2**22 if quick else READ_BYTES)
    if onnx_layers.missing() is None:
        compared = [*compared, *ONNX]
    shape: Tuple[int, ...] = ()
    made: Dict[Variant, List[nn.Module]] = {}
    for case in cases(quick):
        count = copies(case, quick)
        if shape != (case.rows, case.cols):
            shape, made = (case.rows, case.cols), {}
            made = {variant: layers(variant, case, count) for variant in compared}
            _call_once(made.values(), torch.randn(1, case.cols))
        x = torch.randn(case.batch, case.cols)
        calls: Dict[Variant, Callable[[], float]] = {READING: read}
        for variant in compared:
            calls[variant] = Timed(made[variant], x, 0.001 if quick else 0.01)
        values = interleave(calls, rounds)
        calls.clear()  # free memory for the next weights
        speed = values.pop(READING)
        rows = figures(values)
        for row in rows:
            variant = variant_of(row)
            size = weight_bytes(variant, case)
            shares = [size / s / b for s, b in zip(values[variant], speed)]
            row.update(weight_bytes=size, read_fraction=spread(shares))
        found.append(
            dict(
                asdict(case),
                copies=count,
                read_bytes_a_second=spread(speed),
                variants=rows,
            )
        )
        progress(f"kernels: {case}")
    return found


HEADER = (
    "variant",
    "us (min..max)",
    "x own 8 bits",
    "x torch int8",
    "x onnx int8",
    "x float32",
    "of read speed",
)


def lines(found: Sequence[Dict[str, Any]]) -> List[str]:
    """Format the tables."""
    text = []
    for case in found:
        name = Case(*(case[k] for k in ("rows", "cols", "batch", "beyond")))
        speed = spread_cell(case["read_bytes_a_second"], 1e9, 1)
        where = f"{case['copies']} weights in turn" if case["beyond"] else "in cache"
        text += ["", f"{name}, {where}; reading: {speed} GB/s", ""]
        text.append(
            markdown(
                HEADER,
                [
                    [
                        str(variant_of(row)),
                        spread_cell(row["seconds"], 1e-6, 1),
                        median_cell(row["x_own_8_bits"]),
                        median_cell(row["x_torch_int8"]),
                        median_cell(row["x_onnx_int8"]),
                        median_cell(row["x_float32"]),
                        median_cell(row["read_fraction"], 2),
                    ]
                    for row in case["variants"]
                ],
            )
        )
    return text


def aims(found: Sequence[Dict[str, Any]]) -> List[Aim]:
    """Compare mode int8 with its targets; the slowest shape counts."""
    reached = []
    rows = [
        (case, row)
        for case in found
        for row in case["variants"]
        if row["method"] == "packed" and row["mode"] == "int8"
    ]
    single = [(c, r) for c, r in rows if c["beyond"] and c["batch"] == 1]
    for key, base, most in (
        ("x_own_8_bits", "own 8 bits", AIMS_OWN),
        ("x_torch_int8", "torch int8", AIMS_TORCH),
    ):
        for bits, limit in most.items():
            reached += _worst(
                [(c, r) for c, r in single if r["bits"] == bits],
                *(key, f"{bits} bits int8 over {base}, batch 1 beyond L2", limit),
            )
    reached += _worst(
        [(c, r) for c, r in rows if r["bits"] == 8],
        *("x_best_int8", "8 bits int8 over the best int8, anywhere", AIM_BEST),
    )
    for bits in dict.fromkeys(r["bits"] for _, r in rows):
        reached += _worst(
            [(c, r) for c, r in rows if r["bits"] == bits],
            *("x_torch_int8", f"{bits} bits int8 over torch int8, anywhere", AIM_WORST),
        )
    return reached


def _worst(rows, key: str, what: str, most: float) -> List[Aim]:
    values = [(r[key]["median"], c) for c, r in rows if r[key] is not None]
    if not values:
        return []
    value, case = max(values, key=lambda pair: pair[0])
    best = min(value for value, _ in values)
    shape = f"{case['rows']}x{case['cols']} at batch {case['batch']}"
    return [Aim(what, value, most, f"worst at {shape}, best {best:.3f}")]


def notes(found: Sequence[Dict[str, Any]]) -> List[str]:
    """Name what is missing, and the bit widths whose copies fit into the last cache."""
    said = [onnx_layers.missing() or ""]
    last = max(cache_bytes().values(), default=0)
    fit = {
        row["bits"]
        for case in found
        for row in case["variants"]
        if case["beyond"]
        and row["method"] == "packed"
        and case["copies"] * row["weight_bytes"] < last
    }
    if not fit:
        return [line for line in said if line]
    widths = ", ".join(str(bits) for bits in sorted(fit))
    return [
        *(line for line in said if line),
        f"At {widths} bits all weights in turn are together smaller than the last "
        f"cache ({last / MIB:.0f} MiB): they may be read from there.",
    ]
