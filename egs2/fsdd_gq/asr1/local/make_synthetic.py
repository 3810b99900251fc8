#!/usr/bin/env python3
"""Synthesize single spoken digits with espeak-ng, in LibriSpeech layout.

Makes the sample in synthetic/: {train,dev,test}/SPEAKER/CHAPTER/*.flac with
*.trans.txt. A speaker is an espeak-ng voice. A chapter is one reading of the ten digits
with its own speed and pitch. The same espeak-ng version reproduces the same files.
"""

import argparse
import io
import subprocess
from pathlib import Path
from typing import Optional, Sequence

import numpy as np
import soundfile
import soxr

WORDS = "zero one two three four five six seven eight nine".split()
VOICES = {
    1: "en-us+m1",
    2: "en-us+f1",
    3: "en-gb+m3",
    4: "en-gb+f2",
    5: "en-gb-scotland+m7",
    6: "en-gb-x-rp+f4",
    7: "en-us+m5",
    8: "en-gb+f3",
}
CHAPTERS = {"train": 3, "dev": 1, "test": 1}  # readings per speaker
FS = 8000


def speak(word: str, voice: str, speed: int, pitch: int) -> np.ndarray:
    """Synthesize a word at rate FS, without the silence around it."""
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch)]
    done = subprocess.run(
        [*command, "--stdout", word], stdout=subprocess.PIPE, check=True
    )
    audio, rate = soundfile.read(io.BytesIO(done.stdout))
    audio = soxr.resample(audio, rate, FS)
    loud = np.flatnonzero(np.abs(audio) > 0.01 * np.abs(audio).max())
    audio = audio[loud[0] : loud[-1] + 1]
    return 0.5 * audio / np.abs(audio).max()


def get_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("target", type=Path, help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Write every split."""
    args = get_parser().parse_args(cmd)
    rng = np.random.default_rng(args.seed)
    for speaker, voice in VOICES.items():
        chapter = 0
        for split, count in CHAPTERS.items():
            for _ in range(count):
                chapter += 1
                speed = int(rng.integers(130, 191))
                pitch = int(rng.integers(35, 66))
                folder = args.target / split / str(speaker) / str(chapter)
                folder.mkdir(parents=True, exist_ok=True)
                lines = []
                for n, word in enumerate(WORDS):
                    name = f"{speaker}-{chapter}-{n:04d}"
                    audio = speak(word, voice, speed, pitch)
                    soundfile.write(folder / f"{name}.flac", audio, FS, "PCM_16")
                    lines.append(f"{name} {word.upper()}\n")
                trans = folder / f"{speaker}-{chapter}.trans.txt"
                trans.write_text("".join(lines), encoding="utf-8")
    lines = [f"{speaker} | {voice}\n" for speaker, voice in VOICES.items()]
    (args.target / "SPEAKERS.TXT").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
