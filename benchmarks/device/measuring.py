"""Runs of all variants in turn, and their figures."""

from dataclasses import asdict
from typing import Any, Dict, List, Mapping, Sequence

import numpy as np

from benchmarks.device.process import Run
from benchmarks.device.variants import TORCH_INT8, Variant
from benchmarks.measuring import spread

BYTES = ("peak_bytes", "proportional_bytes", "anonymous_bytes", "file_bytes")
RATIOS = (
    "peak_bytes",
    "proportional_bytes",
    "p50_seconds",
    "p90_seconds",
    "cpu_a_second",
)
QUANTILES = {"p50_seconds": 0.5, "p90_seconds": 0.9}


def _values(run: Run, seconds: float) -> Dict[str, float]:
    """Return the figures of a run on `seconds` of speech."""
    utterances = list(run.utterances.values())
    late = [one.latency for one in utterances]
    return dict(
        {key: getattr(run, key) for key in BYTES},
        start_seconds=run.start_seconds,
        **{key: float(np.quantile(late, q)) for key, q in QUANTILES.items()},
        cpu_a_second=run.cpu_seconds / seconds,
        real_time_factor=sum(one.spent for one in utterances) / seconds,
        tokens_a_second=sum(one.tokens for one in utterances) / seconds,
    )


def figures(
    runs: Mapping[Variant, Sequence[Run]], seconds: float
) -> List[Dict[str, Any]]:
    """Return a dict per variant: spreads over its runs, and ratios to other variants.

    Args:
        runs: Of each variant, as many; those of one number took turns.
        seconds: Duration of the speech.

    A ratio is the median of those of the runs of one number. `x_8_bits`: to the same
    method at 8 bits; `x_torch_int8`: to ESPnet with PyTorch's dynamic int8.
    """
    values = {v: [_values(run, seconds) for run in found] for v, found in runs.items()}
    rows = []
    for variant, found in values.items():
        row: Dict[str, Any] = asdict(variant)
        for key in found[0]:
            row[key] = spread([one[key] for one in found])
        eight = Variant(variant.method, 8, variant.mode) if variant.bits else variant
        for name, base in (("x_8_bits", eight), ("x_torch_int8", TORCH_INT8)):
            row[name] = None
            if base in values and base != variant:
                row[name] = {
                    key: spread(
                        [
                            a[key] / max(b[key], 1e-9)
                            for a, b in zip(found, values[base])
                        ]
                    )
                    for key in RATIOS
                }
        rows.append(row)
    return rows
