#!/usr/bin/env python3
"""Make a simulated far-field test set from a clean one.

    python -m experiments.running.far_field data/test_clean data/test_far

Each utterance is spoken in a different rectangular room with uniform absorption,
simulated by the image-source method [Allen and Berkley, JASA 1979] of pyroomacoustics
(pip install pyroomacoustics), and recorded by one omnidirectional microphone. At the
microphone, stationary noise with the average spectrum of the speech is added. Room,
RT60, distance and noise are drawn from --seed and the index of the utterance, and
written to `utt2room`. Without pyroomacoustics, a message is printed and nothing is
written.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Optional, Sequence, Tuple

import numpy as np
import soundfile

from benchmarks.options import new_parser
from espnet_gq.recipe.datadir import read_table, write_spk2utt, write_table

LENGTH, WIDTH, HEIGHT = (4.0, 7.0), (3.5, 6.0), (2.5, 3.2)  # room, in metres
MARGIN = 0.5  # metres from the walls to the talker and the microphone
MICROPHONE_HEIGHT = (0.7, 1.2)
TALKER_HEIGHT = (1.2, 1.8)
RMS = 0.05  # level at the microphone, about -26 dBFS
Point = Tuple[float, float, float]


@dataclass(frozen=True)
class Scene:
    """A talker and a microphone in a room; lengths in metres, RT60 in seconds."""

    room: Point
    talker: Point
    microphone: Point
    rt60: float

    @property
    def distance(self) -> float:
        """Distance between talker and microphone in metres."""
        return float(np.linalg.norm(np.subtract(self.talker, self.microphone)))

    def __str__(self) -> str:
        size = "x".join(f"{side:.2f}" for side in self.room)
        return f"room={size}m rt60={self.rt60:.3f}s distance={self.distance:.2f}m"


def draw_scene(
    rng: np.random.Generator, distance: Tuple[float, float], rt60: Tuple[float, float]
) -> Scene:
    """Draw a room with a talker and a microphone at a distance in metres."""
    while True:
        room = np.array([rng.uniform(*side) for side in (LENGTH, WIDTH, HEIGHT)])
        microphone = np.append(
            rng.uniform(MARGIN, room[:2] - MARGIN), rng.uniform(*MICROPHONE_HEIGHT)
        )
        height = rng.uniform(*TALKER_HEIGHT)
        metres, angle = rng.uniform(*distance), rng.uniform(0, 2 * np.pi)
        level = np.sqrt(max(metres**2 - (height - microphone[2]) ** 2, 0.0))
        talker = microphone + level * np.array([np.cos(angle), np.sin(angle), 0.0])
        talker[2] = height
        seconds = rng.uniform(*rt60)
        if np.all(talker[:2] > MARGIN) and np.all(talker[:2] < room[:2] - MARGIN):
            return Scene(
                _point(room), _point(talker), _point(microphone), float(seconds)
            )


def _point(values: np.ndarray) -> Point:
    x, y, z = map(float, values)
    return x, y, z


def impulse_response(scene: Scene, fs: int) -> np.ndarray:
    """Return the response from talker to microphone, starting at the direct sound."""
    import pyroomacoustics as pra

    absorption, order = pra.inverse_sabine(scene.rt60, scene.room)
    room = pra.ShoeBox(
        scene.room, fs=fs, materials=pra.Material(absorption), max_order=order
    )
    room.add_source(scene.talker)
    room.add_microphone(scene.microphone)
    room.compute_rir()
    response = np.asarray(room.rir[0][0], dtype=np.float64)
    return response[int(np.argmax(np.abs(response))) :]


def shaped_noise(
    length: int, envelope: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return stationary noise of unit RMS with the given magnitude spectrum."""
    white = np.fft.rfft(rng.standard_normal(length))
    grid = np.linspace(0, len(envelope) - 1, len(white))
    shape = np.interp(grid, np.arange(len(envelope)), envelope)
    return unit(np.fft.irfft(white * shape, length))


def unit(audio: np.ndarray) -> np.ndarray:
    """Scale to unit RMS."""
    return audio / max(np.sqrt(np.mean(audio**2)), 1e-8)


def at_microphone(
    speech: np.ndarray, response: np.ndarray, noise: np.ndarray, snr: float
) -> np.ndarray:
    """Return the microphone's signal, with level RMS and the length of `speech`."""
    size = 1 << (len(speech) + len(response)).bit_length()
    spectrum = np.fft.rfft(speech, size) * np.fft.rfft(response, size)
    reverberant = unit(np.fft.irfft(spectrum, size)[: len(speech)])
    return RMS * (reverberant + noise * 10 ** (-snr / 20))


def get_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = new_parser(__doc__)
    parser.add_argument("source", type=Path, help="data directory of clean speech")
    parser.add_argument("target", type=Path, help="data directory to write")
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    for name, default, unit_name in (
        ("distance", (1.5, 3.0), "metres from talker to microphone"),
        ("rt60", (0.3, 0.5), "seconds for reverberation to fall by 60 dB"),
    ):
        parser.add_argument(
            f"--{name}",
            type=float,
            nargs=2,
            default=default,
            metavar=("LOW", "HIGH"),
            help=f"{unit_name}, default {default[0]} {default[1]}",
        )
    parser.add_argument(
        "--snr", type=float, default=15.0, help="dB of speech over noise, default 15"
    )
    return parser


def make(args: argparse.Namespace) -> int:
    """Write the data directory; return the number of utterances.

    Raises:
        OSError, ValueError: If the source cannot be read.
    """
    paths = read_table(args.source / "wav.scp")
    if not paths:
        raise ValueError(f"{args.source / 'wav.scp'} is empty")
    audio, fs = {}, 0
    for utt in sorted(paths):
        audio[utt], fs = soundfile.read(paths[utt], dtype="float64")
    spectra = [np.abs(np.fft.rfft(a[:8192], 8192)) ** 2 for a in audio.values()]
    envelope = np.sqrt(np.mean(spectra, axis=0))
    wav_dir = args.target.parent / "local/audio" / args.target.name
    wav_dir.mkdir(parents=True, exist_ok=True)
    tables: Dict[str, Dict[str, str]] = {"wav.scp": {}, "utt2room": {}}
    for number, (utt, speech) in enumerate(audio.items()):
        rng = np.random.default_rng([args.seed, number])
        scene = draw_scene(rng, tuple(args.distance), tuple(args.rt60))
        noise = shaped_noise(len(speech), envelope, rng)
        response = impulse_response(scene, fs)
        heard = at_microphone(speech, response, noise, args.snr)
        wav = wav_dir / f"{utt}.flac"
        soundfile.write(wav, heard * min(1.0, 0.99 / np.abs(heard).max()), fs, "PCM_16")
        tables["wav.scp"][utt] = str(wav)
        tables["utt2room"][utt] = f"{scene} snr={args.snr:g}dB"
    for name in ("text", "utt2spk", "utt2recordings"):
        if (args.source / name).exists():
            tables[name] = read_table(args.source / name)
    for name, table in tables.items():
        write_table(args.target / name, table)
    write_spk2utt(args.target)
    return len(audio)


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Write the data directory; print a message if that is impossible."""
    args = get_parser().parse_args(cmd)
    for name in ("distance", "rt60"):
        low, high = getattr(args, name)
        if not 0 < low <= high:
            sys.exit(f"far_field: --{name} {low} {high}; allowed: 0 < LOW <= HIGH")
    try:
        import pyroomacoustics  # noqa: F401
    except ImportError:
        print(
            "far_field: pyroomacoustics is not installed, so there is no far-field "
            "test set (pip install pyroomacoustics)"
        )
        return
    try:
        count = make(args)
    except (OSError, ValueError) as e:
        sys.exit(f"far_field: {e}")
    print(f"{args.target}: {count} utterances, far-field")


if __name__ == "__main__":
    main()
