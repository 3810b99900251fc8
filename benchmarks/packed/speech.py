"""Utterances for decoding."""

from dataclasses import dataclass
from pathlib import Path
from typing import List, Tuple

import numpy as np

from benchmarks import ROOT
from benchmarks.packed.models import SAMPLE_RATE

DATA = ROOT.parent / "shared" / "data"
PARTS = ("dev-clean", "test-clean", "test-other")


@dataclass(frozen=True)
class Utterance:
    """Samples (N,) of an utterance at 16 kHz, float32."""

    name: str
    samples: np.ndarray

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return len(self.samples) / SAMPLE_RATE


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    """Return white noise (N,) that replaces speech where no recordings exist."""
    samples = np.random.default_rng(seed).standard_normal(int(seconds * SAMPLE_RATE))
    return (0.1 * samples).astype(np.float32)


def utterances(data: Path, most: int) -> Tuple[List[Utterance], str]:
    """Return at most `most` utterances, evenly spaced, and a description of them.

    Args:
        data: Folder with LibriSpeech/{dev-clean,test-clean,test-other}; without it,
            noise of 2 to 8 s is used.
        most: Maximum number of utterances, 0 for all.
    """
    import soundfile

    folder = data / "LibriSpeech"
    paths = [p for part in PARTS for p in sorted((folder / part).rglob("*.flac"))]
    if not paths:
        made = [
            Utterance(f"noise{i}", noise(2 + 6 * (i % 5) / 4, i))
            for i in range(most or 10)
        ]
        return made, f"{len(made)} of noise: {folder} has no recordings"
    if most:
        paths = [paths[i * len(paths) // most] for i in range(min(most, len(paths)))]
    found = []
    for path in paths:
        samples, rate = soundfile.read(path, dtype="float32")
        if rate != SAMPLE_RATE:
            raise ValueError(f"{path} has {rate} samples per second; allowed: 16000")
        found.append(Utterance(path.stem, samples))
    seconds = sum(u.seconds for u in found)
    parts = ", ".join(PARTS)
    return found, f"{len(found)} of LibriSpeech ({parts}), {seconds:.0f} s"
