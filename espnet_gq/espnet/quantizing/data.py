"""Calibration data: recordings at the model's rate, with transcripts or without."""

import argparse
import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

import numpy as np
import soundfile
import torch

from espnet_gq.espnet.quantizing.model import FloatModel
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
        checksum: SHA-256 of all of it.
    """

    audio: Dict[str, np.ndarray]
    text: Dict[str, str]
    speakers: Dict[str, str]
    checksum: str


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
    digest = hashlib.sha256()
    for utterance, samples in sorted(audio.items()):
        digest.update(f"{utterance} {transcripts.get(utterance)}\n".encode())
        digest.update(np.ascontiguousarray(samples).tobytes())
    return Recordings(
        audio=audio,
        text={u: transcripts[u] for u in audio} if text is not None else {},
        speakers={u: speakers.get(u, u) for u in audio} if speakers else {},
        checksum=digest.hexdigest(),
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


# ---- What the model computes on -----------------------------------------------------
@dataclass(frozen=True)
class Items:
    """The arguments of the model's forward pass, one utterance each.

    Attributes:
        items: The arguments.
        labels: Where the labels come from, as a sentence says it.
    """

    items: List[Dict[str, torch.Tensor]]
    labels: str


def make_items(found: FloatModel, recordings: Recordings) -> Items:
    """Return what to compute on.

    Without transcripts the labels are those of the model's own best CTC path.

    Raises:
        ValueError: If the transcripts cannot be used, or there are none and the model
            has no CTC to make some.
    """
    if recordings.text:
        cls = found.task.load()
        try:
            prepare = cls.build_preprocess_fn(
                argparse.Namespace(**found.located), False
            )
            tokens = {
                utterance: prepare(utterance, {"text": text})["text"]
                for utterance, text in recordings.text.items()
            }
        except Exception as e:  # whatever ESPnet's preprocessors raise
            reason = " ".join(str(e).split())
            raise ValueError(
                f"the transcripts cannot be used ({type(e).__name__}: {reason}); "
                "allowed: text as in the training of the model"
            ) from e
        labels = "the transcripts"
    else:
        tokens = {u: _best_path(found, x) for u, x in recordings.audio.items()}
        labels = "the model's own best CTC paths"
    items = []
    for utterance, samples in recordings.audio.items():
        speech = torch.from_numpy(samples)[None]
        ids = torch.as_tensor(np.asarray(tokens[utterance]), dtype=torch.long)[None]
        if not ids.numel():  # no model computes on an empty transcript
            continue
        items.append(
            {
                "speech": speech,
                "speech_lengths": torch.tensor([speech.shape[1]]),
                "text": ids,
                "text_lengths": torch.tensor([ids.shape[1]]),
            }
        )
    if not items:
        raise ValueError(
            "no utterance has labels; allowed: recordings of speech that the model "
            "recognises, or their transcripts"
        )
    return Items(items, labels)


@torch.no_grad()
def _best_path(found: FloatModel, samples: np.ndarray) -> List[int]:
    """Return the labels of the best CTC path.

    Raises:
        ValueError: If the model has no CTC.
    """
    model: Any = found.model
    speech = torch.from_numpy(samples)[None]
    encoded, _ = model.encode(speech, torch.tensor([speech.shape[1]]))
    encoded = encoded[0] if isinstance(encoded, tuple) else encoded
    if getattr(model, "ctc", None) is not None:
        best = model.ctc.argmax(encoded)[0]
    elif getattr(model, "ctc_lin", None) is not None:
        best = model.ctc_lin(encoded)[0].argmax(-1)
    else:
        raise ValueError(
            "the model has no CTC to transcribe the calibration data with; allowed: "
            "--data WAV_SCP TEXT, with transcripts"
        )
    return [i for i in torch.unique_consecutive(best).tolist() if i != model.blank_id]


def forward_of(found: FloatModel):
    """Return a function that computes with the model on an item."""

    def forward(item: Mapping[str, torch.Tensor]) -> None:
        # ESPnet's models change the batch in place.
        found.model(**{name: value.clone() for name, value in item.items()})

    return forward
