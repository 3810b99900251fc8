"""Profile of the time that a training step spends inside the quantizers."""

import statistics
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple

import espnet_gq
from benchmarks.measuring import Clock
from espnet_gq.quantizer import assignment, function, fused, triton_kernel
from espnet_gq.quantizer.general import GeneralQuantizer

PARTS: Dict[str, Tuple[Tuple[Any, str], ...]] = {
    "forward": ((GeneralQuantizer, "forward"),),
    "forward kernel": (
        (fused, "forward"),
        (triton_kernel, "forward"),
        (assignment, "forward"),
    ),
    "backward": ((function.FakeQuantize, "backward"),),
    "backward kernel": (
        (fused, "backward"),
        (triton_kernel, "backward"),
        (assignment, "backward"),
    ),
    "codebook": ((function, "codebook"),),
    "scale": ((function, "scale_pair"),),
    "advance": ((espnet_gq, "advance"),),
}
"""Timed functions by row of the profile. The kernels, the codebook and the scale are
parts of forward and backward."""


def _timed(call: Callable, seconds: List[float]) -> Callable:
    def wrapper(*args, **kwargs):
        clock = Clock()
        result = call(*args, **kwargs)
        seconds.append(clock.lap())
        return result

    return wrapper


@contextmanager
def timed_parts() -> Iterator[Dict[str, List[float]]]:
    """Time every call of PARTS within the context; yields seconds by part."""
    seconds: Dict[str, List[float]] = {part: [] for part in PARTS}
    originals = []
    for part, places in PARTS.items():
        for owner, name in places:
            original = vars(owner).get(name)
            if original is None:
                continue
            originals.append((owner, name, original))
            new: Any = _timed(getattr(owner, name), seconds[part])
            if isinstance(original, staticmethod):
                new = staticmethod(new)
            setattr(owner, name, new)
    try:
        yield seconds
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


def profile(
    step: Callable[[Any, int], Any], batches: Sequence[Any]
) -> Dict[str, Dict[str, float]]:
    """Return the time of each of PARTS.

    Args:
        step: Function that takes one training step, given a batch and a seed.
        batches: One batch per step.
    """
    with timed_parts() as seconds:
        for seed, batch in enumerate(batches):
            step(batch, seed)
    return {
        part: dict(
            calls_a_step=len(log) / len(batches),
            seconds_a_step=sum(log) / len(batches),
            median_seconds_a_call=statistics.median(log),
        )
        for part, log in seconds.items()
        if log
    }


def profile_rows(
    parts: Dict[str, Dict[str, float]], weights: int
) -> Tuple[List[str], List[List[str]]]:
    """Return header and rows of the profile's table.

    Args:
        parts: Result of `profile`.
        weights: Number of quantized weights.
    """
    header = ["part", "calls/step", "ms/step", "ns/weight", "us/call (median)"]
    rows = [
        [
            part,
            f"{row['calls_a_step']:g}",
            f"{1e3 * row['seconds_a_step']:.2f}",
            f"{1e9 * row['seconds_a_step'] / weights:.3f}",
            f"{1e6 * row['median_seconds_a_call']:.1f}",
        ]
        for part, row in parts.items()
    ]
    return header, rows
