#!/usr/bin/env python3
"""Join recordings of single spoken digits into connected-digit utterances.

Reads the Free Spoken Digit Dataset, or a folder of single digits in LibriSpeech
layout, and writes Kaldi-style data directories for training, development, a clean
test set and a noisy test set. Each utterance joins recordings of one speaker and one
split. All random choices depend on ``--seed``.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import soundfile
import soxr

WORDS = "zero one two three four five six seven eight nine".split()
FSDD_TEST = range(0, 5)  # the corpus' own split: indices 0-4 are test, 5-49 train
FSDD_DEV = range(45, 50)  # held out from the training indices

SHORTEST = {"train": 1, "dev": 3, "test": 3}  # minimum number of digits per utterance
LONGEST = 7
RMS = 0.05  # level of every recording (about -26 dBFS)
PAUSE = (0.03, 0.20)  # seconds between two digits
EDGE = (0.05, 0.15)  # seconds before the first and after the last digit
FLOOR_DB = 50.0  # background noise of clean utterances, relative to the speech


@dataclass(frozen=True)
class Recording:
    """One spoken digit."""

    name: str
    speaker: str
    split: str
    word: str
    path: Path


def find_fsdd(root: Path) -> Iterator[Recording]:
    """Yield the recordings named ``{digit}_{speaker}_{index}.wav``."""
    folder = root / "recordings" if (root / "recordings").is_dir() else root
    for path in sorted(folder.glob("[0-9]_*_*.wav")):
        digit, speaker, index = path.stem.split("_")
        split = "train"
        if int(index) in FSDD_TEST:
            split = "test"
        elif int(index) in FSDD_DEV:
            split = "dev"
        yield Recording(path.stem, speaker, split, WORDS[int(digit)], path)


def find_librispeech_layout(root: Path) -> Iterator[Recording]:
    """Yield the digits of ``{train,dev,test}/SPEAKER/CHAPTER/*.flac``."""
    for split in ("train", "dev", "test"):
        for trans in sorted(root.glob(f"{split}/*/*/*.trans.txt")):
            for line in trans.read_text(encoding="utf-8").splitlines():
                name, word = line.split(maxsplit=1)
                if word.lower() in WORDS:
                    path = trans.parent / f"{name}.flac"
                    speaker = trans.parent.parent.name
                    yield Recording(name, speaker, split, word.lower(), path)


def find_recordings(root: Path) -> List[Recording]:
    """Return every digit under ``root``, which may have either layout."""
    found = list(find_fsdd(root)) or list(find_librispeech_layout(root))
    missing = {"train", "dev", "test"} - {r.split for r in found}
    if missing:
        raise SystemExit(
            f"{root} holds no spoken digits for {', '.join(sorted(missing))}: "
            "expected FSDD's recordings/{digit}_{speaker}_{index}.wav or "
            "{train,dev,test}/SPEAKER/CHAPTER/*.flac with *.trans.txt."
        )
    return found


def load(path: Path, fs: int) -> np.ndarray:
    """Load a recording as mono with rate ``fs`` and level ``RMS``."""
    audio, rate = soundfile.read(path, dtype="float64", always_2d=True)
    audio = audio.mean(axis=1)
    if rate != fs:
        audio = soxr.resample(audio, rate, fs)
    audio = audio - audio.mean()
    return audio * (RMS / max(np.sqrt(np.mean(audio**2)), 1e-8))


def group(
    recordings: Sequence[Recording],
    rounds: int,
    shortest: int,
    rng: np.random.Generator,
) -> Iterator[List[Recording]]:
    """Yield groups of recordings; each recording is used once per round."""
    for _ in range(rounds):
        order = [recordings[i] for i in rng.permutation(len(recordings))]
        while order:
            size = int(rng.integers(shortest, LONGEST + 1))
            size = len(order) if len(order) - size < shortest else size
            yield order[:size]
            order = order[size:]


def join(
    pieces: Sequence[np.ndarray], fs: int, rng: np.random.Generator
) -> Tuple[np.ndarray, float]:
    """Join the pieces with pauses; return the audio and the level of the speech."""

    def silence(seconds: Tuple[float, float]) -> np.ndarray:
        return np.zeros(int(rng.uniform(*seconds) * fs))

    parts = [silence(EDGE)]
    for i, piece in enumerate(pieces):
        parts += [silence(PAUSE)] if i else []
        parts.append(piece * 10 ** (rng.uniform(-2, 2) / 20))
    parts.append(silence(EDGE))
    speech_rms = float(np.sqrt(np.mean(np.concatenate(pieces) ** 2)))
    return np.concatenate(parts), speech_rms


class Noise:
    """Babble of training recordings over noise with the same average spectrum."""

    def __init__(self, pool: Sequence[np.ndarray], voices: int = 6):
        self.pool = pool
        self.voices = voices
        spectra = [np.abs(np.fft.rfft(x, 2048)) ** 2 for x in pool]
        self.envelope = np.sqrt(np.mean(spectra, axis=0))

    def __call__(self, length: int, rng: np.random.Generator) -> np.ndarray:
        """Return ``length`` samples with unit RMS."""
        white = np.fft.rfft(rng.standard_normal(length))
        grid = np.linspace(0, len(self.envelope) - 1, len(white))
        shape = np.interp(grid, np.arange(len(self.envelope)), self.envelope)
        shaped = unit(np.fft.irfft(white * shape, length))
        babble = np.zeros(length)
        for _ in range(self.voices):
            stream = np.zeros(0)
            while len(stream) < 2 * length:
                piece = self.pool[rng.integers(len(self.pool))]
                stream = np.concatenate([stream, piece])
            start = rng.integers(length)
            babble += stream[start : start + length]
        return unit(shaped + unit(babble))


def unit(audio: np.ndarray) -> np.ndarray:
    """Scale to unit RMS."""
    return audio / max(np.sqrt(np.mean(audio**2)), 1e-8)


def at_snr(
    audio: np.ndarray, speech_rms: float, noise: np.ndarray, snr: float
) -> np.ndarray:
    """Add unit-RMS ``noise`` to ``audio`` at an SNR of ``snr`` dB."""
    return audio + noise * speech_rms * 10 ** (-snr / 20)


class DataDir:
    """A Kaldi-style data directory that is being written."""

    def __init__(self, path: Path, wav_dir: Path, fs: int):
        self.path, self.wav_dir, self.fs = path, wav_dir, fs
        self.rows: Dict[str, Dict[str, str]] = {}
        for folder in (path, wav_dir):
            folder.mkdir(parents=True, exist_ok=True)

    def add(
        self,
        utt: str,
        audio: np.ndarray,
        members: Sequence[Recording],
        snr: Optional[float],
    ) -> None:
        """Write the audio of one utterance and store its table rows."""
        peak = np.abs(audio).max()
        wav = self.wav_dir / f"{utt}.flac"
        soundfile.write(wav, audio * min(1.0, 0.99 / peak), self.fs, "PCM_16")
        self.rows[utt] = {
            "wav.scp": str(wav),
            "text": " ".join(r.word for r in members),
            "utt2spk": members[0].speaker,
            "utt2recordings": " ".join(r.name for r in members),
            "utt2snr": "clean" if snr is None else f"{snr:.1f}",
        }

    def close(self) -> None:
        """Write the directory's files, sorted as Kaldi requires."""
        utts = sorted(self.rows)
        for name in ("wav.scp", "text", "utt2spk", "utt2recordings", "utt2snr"):
            lines = [f"{utt} {self.rows[utt][name]}\n" for utt in utts]
            (self.path / name).write_text("".join(lines), encoding="utf-8")
        speakers: Dict[str, List[str]] = {}
        for utt in utts:
            speakers.setdefault(self.rows[utt]["utt2spk"], []).append(utt)
        lines = [f"{spk} {' '.join(speakers[spk])}\n" for spk in sorted(speakers)]
        (self.path / "spk2utt").write_text("".join(lines), encoding="utf-8")


def by_speaker(
    recordings: Sequence[Recording], split: str
) -> List[Tuple[str, List[Recording]]]:
    """Return the recordings of one split, grouped by speaker."""
    names = sorted({r.speaker for r in recordings if r.split == split})
    return [
        (n, [r for r in recordings if r.split == split and r.speaker == n])
        for n in names
    ]


def get_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("corpus", type=Path, help="folder of the recordings")
    parser.add_argument("data", type=Path, help="folder for the data directories")
    parser.add_argument("--fs", type=int, default=8000, help="sampling rate in Hz")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--digits",
        type=int,
        nargs=3,
        default=(10000, 750, 1000),
        metavar=("TRAIN", "DEV", "TEST"),
        help="approximate digits per split; its recordings are used equally often",
    )
    parser.add_argument(
        "--train_snr",
        type=float,
        nargs=2,
        default=(5.0, 20.0),
        metavar=("LOW", "HIGH"),
        help="SNR range in dB for every second training and development utterance",
    )
    parser.add_argument(
        "--test_snr", type=float, default=5.0, help="SNR of test_noisy in dB"
    )
    return parser


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Write the four data directories."""
    args = get_parser().parse_args(cmd)
    recordings = find_recordings(args.corpus)
    audio = {r: load(r.path, args.fs) for r in recordings}
    noise = Noise([audio[r] for r in recordings if r.split == "train"])
    dirs = {
        name: DataDir(args.data / name, args.data / "local/audio" / name, args.fs)
        for name in ("train", "dev", "test_clean", "test_noisy")
    }
    for seed, split, digits in zip(range(3), ("train", "dev", "test"), args.digits):
        rng = np.random.default_rng([args.seed, seed])
        rounds = max(1, round(digits / sum(r.split == split for r in recordings)))
        for speaker, members in by_speaker(recordings, split):
            for n, parts in enumerate(group(members, rounds, SHORTEST[split], rng)):
                speech, rms = join([audio[r] for r in parts], args.fs, rng)
                utt = f"{speaker}-{split}-{n:04d}"
                # Always drawn, so that options do not shift later random numbers.
                bed, snr = noise(len(speech), rng), rng.uniform(*args.train_snr)
                clean = at_snr(speech, rms, bed, FLOOR_DB)
                if split == "test":
                    noisy = at_snr(speech, rms, bed, args.test_snr)
                    dirs["test_clean"].add(utt, clean, parts, None)
                    dirs["test_noisy"].add(utt, noisy, parts, args.test_snr)
                elif n % 2:
                    dirs[split].add(utt, at_snr(speech, rms, bed, snr), parts, snr)
                else:
                    dirs[split].add(utt, clean, parts, None)
    for name, data_dir in dirs.items():
        data_dir.close()
        words = sum(len(r["text"].split()) for r in data_dir.rows.values())
        print(f"{data_dir.path}: {len(data_dir.rows)} utterances, {words} digits")


if __name__ == "__main__":
    main()
