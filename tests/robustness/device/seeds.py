"""Seeds of the fuzzers: every kind of recognizer, very small, and WAV files."""

import struct
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import numpy as np

from benchmarks import ROOT

SMALL: Dict[str, Any] = {
    "fs": 8000,
    "n_fft": 16,
    "win_length": None,
    "hop_length": 8,
    "n_mels": 8,
    "hidden_size": 4,
    "output_size": 4,
    "linear_units": 6,
    "cgmlp_linear_units": 8,
    "attention_heads": 1,
    "joint_space_size": 4,
    "token_list": ["<blank>", "<unk>", "<space>", "a", "\u2581b", "<sos/eos>"],
}
"""Options of a recognizer and what they become."""


def shrink(options: Any) -> Any:
    """Return options of a recognizer with the sizes in SMALL."""
    if isinstance(options, list):
        return [shrink(one) for one in options]
    if not isinstance(options, dict):
        return options
    return {key: SMALL.get(key, shrink(value)) for key, value in options.items()}


def model_seeds(folder: Path) -> Iterator[Path]:
    """Write a model file of every kind of recognizer; yield the paths."""
    sys.path.append(str(ROOT / "tests" / "espnet"))
    from exporting.recognizers import KINDS, make

    from espnet_gq.espnet.exporting import export

    folder.mkdir(parents=True, exist_ok=True)
    for kind, options in KINDS.items():
        path = folder / f"{kind}.gguf"
        if not path.exists():
            export(make(folder / kind, shrink(options)), path)
        yield path


def wav(
    samples: bytes,
    tag: int = 1,
    bits: int = 16,
    channels: int = 1,
    rate: int = 8000,
    more: bytes = b"",
    chunks: bytes = b"",
) -> bytes:
    """Return a WAV file.

    Args:
        samples: Contents of its chunk of samples.
        tag: Format: 1 for integers, 3 for floats, 0xFFFE for the extensible one.
        bits: Bits per sample.
        channels: Channels.
        rate: Samples per second.
        more: What follows in the chunk of the format.
        chunks: Chunks between the format and the samples.
    """
    align = channels * bits // 8
    form = struct.pack("<HHIIHH", tag, channels, rate, rate * align, align, bits) + more
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + chunks
    body += b"data" + struct.pack("<I", len(samples)) + samples
    return b"RIFF" + struct.pack("<I", len(body)) + body


def extensible(tag: int, bits: int) -> bytes:
    """Return what follows in the format of an extensible WAV file."""
    guid = bytes.fromhex("000000001000800000aa00389b71")
    return struct.pack("<HHIH", 22, bits, 4, tag) + guid


def wav_seeds() -> List[Tuple[str, bytes]]:
    """Return WAV files by name."""
    waves = np.sin(np.arange(400) / 5) / 2
    whole = np.round(waves * 32767).astype("<i2").tobytes()
    floats = waves.astype("<f4").tobytes()
    return [
        ("pcm16", wav(whole)),
        ("float32", wav(floats, 3, 32)),
        ("pcm16_extensible", wav(whole, 0xFFFE, 16, more=extensible(1, 16))),
        ("float_extensible", wav(floats, 0xFFFE, 32, more=extensible(3, 32))),
        ("other_chunks", wav(whole, chunks=b"LIST\x05\0\0\0abcde\0fact\4\0\0\0abcd")),
        ("stereo", wav(whole, channels=2)),
        ("pcm24", wav(whole[:399], bits=24)),
        ("streamed", wav(whole).replace(b"data\x20\x03\0\0", b"data\xff\xff\xff\xff")),
    ]
