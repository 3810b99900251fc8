"""Utterances as WAV files."""

import wave
from dataclasses import dataclass
from pathlib import Path
from typing import List, Tuple

import numpy as np

from benchmarks.packed.models import SAMPLE_RATE
from benchmarks.packed.speech import utterances


@dataclass(frozen=True)
class Spoken:
    """Utterances of a benchmark.

    Attributes:
        paths: WAV files, 16-bit, mono.
        samples: Samples (N,) of each, float32.
        seconds: Duration of each.
        what: What they are.
    """

    paths: List[Path]
    samples: List[np.ndarray]
    seconds: List[float]
    what: str


def write(data: Path, folder: Path, most: int, longest: float) -> Spoken:
    """Write utterances of LibriSpeech as WAV files.

    Args:
        data: See `benchmarks.packed.speech.utterances`.
        folder: Where to.
        most: Maximum number, evenly spaced; 0 for all.
        longest: Longest one in seconds.
    """
    found, what = utterances(data, 0)
    kept = [one for one in found if one.seconds <= longest]
    if most:
        kept = [kept[i * len(kept) // most] for i in range(min(most, len(kept)))]
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for one in kept:
        path = folder / f"{one.name}.wav"
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(SAMPLE_RATE)
            whole = np.clip(np.round(one.samples * 32768), -32768, 32767)
            file.writeframes(whole.astype("<i2").tobytes())
        paths.append(path)
    seconds = [one.seconds for one in kept]
    chosen = (
        f"{len(kept)} of at most {longest:g} s, {sum(seconds):.0f} s in all, of these: "
    )
    return Spoken(paths, [one.samples for one in kept], seconds, chosen + what)


def some(spoken: Spoken, most: int) -> Tuple[np.ndarray, ...]:
    """Return the samples of at most so many utterances, evenly spaced."""
    count = min(most, len(spoken.samples))
    return tuple(spoken.samples[i * len(spoken.samples) // count] for i in range(count))
