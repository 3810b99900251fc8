"""The tables, and the figures compared with the targets."""

from typing import Any, Dict, List, Mapping, Optional

from benchmarks.device.variants import Variant
from benchmarks.measuring import MIB
from benchmarks.packed.variants import Aim
from benchmarks.report import spread_cell
from espnet_gq.analysis.tables import markdown

AIM_SIZE = "lstm100m"
EIGHT_BITS = {"peak_bytes": 0.66, "p90_seconds": 0.68}
TORCH_INT8 = {"peak_bytes": 0.10, "p90_seconds": 0.50}
"""Targets of the engine at 5 bits: ratios to 8 bits and to PyTorch's dynamic int8."""
START_SECONDS = 0.050
PROGRAM_BYTES = 2 * MIB
TITLES = {"peak_bytes": "peak memory", "p90_seconds": "latency P90"}

HEADER = (
    "variant",
    "file MiB",
    "peak MiB (min..max)",
    "x 8 bits",
    "x torch int8",
    "PSS MiB",
    "P50 ms",
    "P90 ms (min..max)",
    "x 8 bits",
    "x torch int8",
    "real-time factor",
    "CPU s/s",
    "x 8 bits",
    "start ms",
    "tokens/s",
)


def variant_of(row: Mapping[str, Any]) -> Variant:
    """Return the variant that a dict of figures describes."""
    return Variant(row["method"], row["bits"], row["mode"])


def lines(found: Mapping[str, Any]) -> List[str]:
    """Format the table of a size, and which variants did not run."""
    rows = []
    for row in found["variants"]:

        def ratio(base: str, key: str) -> str:
            return f"{row[base][key]['median']:.3f}" if row[base] else "-"

        def median(key: str, unit: float, digits: int) -> str:
            return f"{row[key]['median'] / unit:,.{digits}f}"

        rows.append(
            [
                str(variant_of(row)),
                f"{row['model_bytes'] / MIB:.1f}",
                spread_cell(row["peak_bytes"], MIB, 1),
                ratio("x_8_bits", "peak_bytes"),
                ratio("x_torch_int8", "peak_bytes"),
                median("proportional_bytes", MIB, 1),
                median("p50_seconds", 1e-3, 2),
                spread_cell(row["p90_seconds"], 1e-3, 2),
                ratio("x_8_bits", "p90_seconds"),
                ratio("x_torch_int8", "p90_seconds"),
                median("real_time_factor", 1, 3),
                median("cpu_a_second", 1, 3),
                ratio("x_8_bits", "cpu_a_second"),
                median("start_seconds", 1e-3, 0),
                median("tokens_a_second", 1, 1),
            ]
        )
    text = [markdown(HEADER, rows)] if rows else []
    return text + [
        f"not run: {row['what']}: {row['reason']}" for row in found["not_run"]
    ]


def aims(name: str, found: Mapping[str, Any], program_bytes: int) -> List[Aim]:
    """Compare the engine at 5 bits with the targets; only AIM_SIZE has some."""
    rows = {variant_of(row): row for row in found["variants"]}
    row: Optional[Dict[str, Any]] = rows.get(Variant("engine", 5, "int8"))
    if name != AIM_SIZE or row is None:
        return []
    reached = []
    for base, what, targets in (
        ("x_8_bits", "8 bits", EIGHT_BITS),
        ("x_torch_int8", "ESPnet with PyTorch dynamic int8", TORCH_INT8),
    ):
        if row[base] is not None:
            reached += [
                Aim(
                    f"{name}: {TITLES[key]}, engine at 5 bits over {what}",
                    *(row[base][key]["median"], most),
                )
                for key, most in targets.items()
            ]
    start = row["start_seconds"]["median"]
    return [
        *reached,
        Aim(f"{name}: seconds until the first sample is taken", start, START_SECONDS),
        Aim("MiB of the stripped program", program_bytes / MIB, PROGRAM_BYTES / MIB),
    ]
