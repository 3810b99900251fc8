"""Latency from the end of speech to the final result, decoded chunk by chunk."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np

from benchmarks.measuring import in_turn, spread
from benchmarks.packed.models import SAMPLE_RATE, describe, load_decoders
from benchmarks.packed.speech import Utterance, noise
from benchmarks.packed.variants import (
    FLOAT,
    TORCH_INT8,
    Aim,
    Variant,
    ratios,
    variant_of,
)
from benchmarks.report import median_cell, progress
from espnet_gq.analysis.tables import markdown

AIM = 0.70
"""Target ratio of 5 to 8 packed bits for AIM_SIZE, P50 and P90, mode int8."""
AIM_SIZE = "rnnt100m"


def decode(decoder, samples: np.ndarray, chunk: int) -> Tuple[float, float, int]:
    """Decode an utterance; return latency and processing time in seconds, and labels.

    The clock is simulated: a chunk arrives when it has been spoken. Its processing
    starts then or when the previous chunk is done, and takes as long as measured.
    """
    finish = busy = 0.0
    labels: List[int] = []
    decoder.pace.frames = 0
    for start in range(0, len(samples), chunk):
        end = min(start + chunk, len(samples))
        began = time.perf_counter()
        result = decoder(samples[start:end], is_final=end == len(samples))
        took = time.perf_counter() - began
        finish = max(finish, end / SAMPLE_RATE) + took
        busy += took
        labels = result[0][2]
    return finish - len(samples) / SAMPLE_RATE, busy, len(labels)


def measure(
    name: str,
    compared: Sequence[Variant],
    cache: Path,
    spoken: Sequence[Utterance],
    chunk_ms: int,
) -> Dict[str, Any]:
    """Measure a size: all variants decode each utterance in turn."""
    found, _ = describe(name, cache)
    loaded = load_decoders(name, compared, cache)
    chunk = chunk_ms * SAMPLE_RATE // 1000
    done: Dict[Variant, List[Tuple[float, float, int]]] = {v: [] for v in compared}
    for one in loaded:
        one.enter()
        decode(one.decoder, noise(1.0), chunk)
    for index, utterance in enumerate(spoken):
        for one in in_turn(loaded, index):
            one.enter()
            done[one.variant].append(decode(one.decoder, utterance.samples, chunk))
        progress(f"latency: {name}: utterance {index + 1} of {len(spoken)}")
    seconds = [utterance.seconds for utterance in spoken]
    latency = {v: [one[0] for one in d] for v, d in done.items()}
    found.update(
        chunk_ms=chunk_ms,
        utterances={u.name: u.seconds for u in spoken},
        variants=[
            _figures(variant, latency, done[variant], sum(seconds))
            for variant in compared
        ],
    )
    return found


def _figures(variant, latency, done, seconds: float) -> Dict[str, Any]:
    def quantiles(which: Variant) -> List[float]:
        return [float(q) for q in np.quantile(latency[which], (0.5, 0.9))]

    def quotients(base: Variant):
        if base not in latency:
            return None
        pairs = zip(("p50", "p90"), quantiles(variant), quantiles(base))
        return {key: own / other for key, own, other in pairs}

    p50, p90 = quantiles(variant)
    return dict(
        asdict(variant),
        latency_seconds=dict(spread(latency[variant]), p50=p50, p90=p90),
        each_latency_seconds=latency[variant],
        real_time_factor=sum(busy for _, busy, _ in done) / seconds,
        labels_a_second=sum(labels for _, _, labels in done) / seconds,
        x_float32=quotients(FLOAT),
        x_torch_int8=quotients(TORCH_INT8),
        x_own_8_bits=quotients(variant.own_8_bits),
        x_own_8_bits_each=ratios(latency, variant, variant.own_8_bits),
    )


HEADER = (
    "variant",
    "P50 ms",
    "P90 ms",
    "min..max ms",
    "P90 x own 8 bits",
    "P90 x torch int8",
    "P90 x float32",
    "each x own 8 bits",
    "real-time factor",
    "labels/s",
)


def lines(found: Dict[str, Any]) -> List[str]:
    """Format the table of a size."""

    def cell(row, key: str) -> str:
        return "-" if row[key] is None else f"{row[key]['p90']:.3f}"

    rows = []
    for row in found["variants"]:
        ms = {k: 1e3 * v for k, v in row["latency_seconds"].items()}
        rows.append(
            [
                str(variant_of(row)),
                f"{ms['p50']:,.1f}",
                f"{ms['p90']:,.1f}",
                f"{ms['min']:,.1f}..{ms['max']:,.1f}",
                cell(row, "x_own_8_bits"),
                cell(row, "x_torch_int8"),
                cell(row, "x_float32"),
                median_cell(row["x_own_8_bits_each"]),
                f"{row['real_time_factor']:.3f}",
                f"{row['labels_a_second']:.1f}",
            ]
        )
    return [
        "",
        f"Chunks of {found['chunk_ms']} ms, greedy search",
        "",
        markdown(HEADER, rows),
    ]


def aims(name: str, found: Dict[str, Any]) -> List[Aim]:
    """Compare 5 with 8 bits in mode int8; only AIM_SIZE has a target."""
    if name != AIM_SIZE:
        return []
    return [
        Aim(
            f"latency {key.upper()} of {name}, 5 bits over 8 bits, {row['mode']}",
            *(row["x_own_8_bits"][key], AIM),
        )
        for row in found["variants"]
        if row["bits"] == 5 and row["x_own_8_bits"] is not None
        for key in ("p50", "p90")
    ]
