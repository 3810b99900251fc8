"""Calibration data: recordings at the model's rate, with transcripts or without."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Sequence

import numpy as np
import soundfile

from espnet_gq.recipe.datadir import format_wav_scp, read_table, write_table

AUDIO = (".wav", ".flac", ".ogg", ".mp3")
RATE = 16000
"""Where a configuration names none."""
ALLOWED = (
    "allowed: a data directory (wav.scp, and text where there is one), a wav.scp, or a "
    "folder of audio files"
)


@dataclass(frozen=True)
class Recordings:
    """Utterances in memory.

    Attributes:
        audio: Utterance -> samples.
        text: Utterance -> transcript; empty where there are none.
        speakers: Utterance -> speaker.
    """

    audio: Dict[str, np.ndarray]
    text: Dict[str, str]
    speakers: Dict[str, str]


def rate_of(config: Mapping[str, Any]) -> int:
    """Return the sampling rate that a model was trained at."""
    fs = (config.get("frontend_conf") or {}).get("fs", RATE)
    text = str(fs).lower()
    factor = 1000 if text.endswith("k") else 1
    return int(float(text.removesuffix("k")) * factor)


def read_recordings(
    data: Path, text: Optional[Path], rate: int, number: Optional[int]
) -> Recordings:
    """Read calibration data.

    Args:
        data: A data directory, a wav.scp, or a folder of audio files.
        text: Transcripts; None: those of the data directory, if any.
        rate: Sampling rate to have them at.
        number: Take that many utterances, spread evenly. None: all.

    Raises:
        OSError, ValueError: If there are none, or one cannot be read.
    """
    if not data.exists():
        raise FileNotFoundError(f"{data}: no such file or folder; {ALLOWED}")
    if text is not None and not text.is_file():
        raise FileNotFoundError(
            f"{text}: no such file; allowed: lines of an utterance "
            "and its transcript"
        )
    folder = data if data.is_dir() else data.parent
    if text is None and data.is_dir() and (data / "text").is_file():
        text = data / "text"
    with tempfile.TemporaryDirectory() as temporary:
        source, target = Path(temporary) / "source", Path(temporary) / "target"
        source.mkdir()
        _select(data, source, number)
        format_wav_scp(source, target, rate)
        audio = {
            utterance: soundfile.read(path, dtype="float32")[0]
            for utterance, path in read_table(target / "wav.scp").items()
        }
    transcripts = {} if text is None else read_table(text)
    lacking = [utterance for utterance in audio if utterance not in transcripts]
    if text is not None and lacking:
        raise ValueError(
            f"{text} has no transcript of {lacking[0]}"
            + (f" and {len(lacking) - 1} more" if len(lacking) > 1 else "")
            + f"; allowed: one for every utterance of {data}"
        )
    utt2spk = folder / "utt2spk"
    speakers = read_table(utt2spk) if utt2spk.is_file() else {}
    return Recordings(
        audio=audio,
        text={u: transcripts[u] for u in audio} if text is not None else {},
        speakers={u: speakers.get(u, u) for u in audio} if speakers else {},
    )


def _select(data: Path, source: Path, number: Optional[int]) -> None:
    """Write the wav.scp, and segments, of the utterances to take."""
    if data.is_dir() and not (data / "wav.scp").is_file():
        files = sorted(p for p in data.rglob("*") if p.suffix.lower() in AUDIO)
        utterances = {
            str(p.relative_to(data).with_suffix("")).replace("/", "-"): str(p)
            for p in files
        }
        if not utterances:
            raise ValueError(f"{data} has neither wav.scp nor audio files; {ALLOWED}")
        utterances = _spread(utterances, number)
        write_table(source / "wav.scp", utterances)
    else:
        scp = data / "wav.scp" if data.is_dir() else data
        recordings = read_table(scp)
        if not recordings:
            raise ValueError(f"{scp} is empty; {ALLOWED}")
        utterances = _spread(recordings, number)
        if data.is_dir() and (data / "segments").is_file():
            utterances = _spread(read_table(data / "segments"), number)
            write_table(source / "segments", utterances)
        else:
            recordings = utterances
        write_table(source / "wav.scp", recordings)
    write_table(source / "utt2spk", {name: name for name in utterances})


def _spread(table: Mapping[str, str], number: Optional[int]) -> Dict[str, str]:
    keys: Sequence[str] = sorted(table)
    if number is not None and number < len(keys):
        keys = [keys[i * len(keys) // number] for i in range(number)]
    return {key: table[key] for key in keys}
