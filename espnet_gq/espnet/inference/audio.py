"""Utterances that cannot be decoded: skipped, reported, and a non-zero exit status.

ESPnet's decoding commands read audio in worker processes and abort at the first file
that cannot be read; a wrong sampling rate goes unnoticed.
"""

import argparse
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import numpy as np
import soundfile

from espnet_gq.recipe.datadir import parse_rate

Triple = Tuple[str, str, str]
SHOWN = 10
"""Most utterances that the final message names."""


@dataclass(frozen=True)
class AudioNeeds:
    """Requirements of a model on its audio.

    Args:
        rate: Samples per second, None: any.
        samples: Least number of samples.
    """

    rate: Optional[int] = None
    samples: int = 1

    @classmethod
    def of(cls, args: argparse.Namespace) -> "AudioNeeds":
        """Return the requirements of a model with these training arguments."""
        conf = getattr(args, "frontend_conf", None) or {}
        if getattr(args, "input_size", None) is not None or "fs" not in conf:
            return cls()
        # The STFT pads by reflecting half a window, which takes that many samples.
        n_fft = conf.get("n_fft", 512)
        return cls(parse_rate(conf["fs"]), n_fft // 2 + 1)

    def refusal(self, path: str) -> Optional[str]:
        """Return why a file cannot be decoded, None where it can."""
        try:
            samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        except (OSError, RuntimeError, ValueError, TypeError) as e:
            reason = " ".join(str(e).split()) or type(e).__name__
            return f"{path} cannot be read as audio ({reason}); allowed: WAV, FLAC, ..."
        if self.rate is not None and rate != self.rate:
            return f"{path} has {rate} Hz; allowed: {self.rate} Hz, as in training"
        if len(samples) < self.samples:
            return f"{path} has {len(samples)} samples; allowed: {self.samples} or more"
        if not np.isfinite(samples).all():
            return f"{path} holds NaN or infinite samples; allowed: finite numbers"
        return None


def _lines(path: str) -> Iterator[Tuple[str, str]]:
    """Yield (key, value) of a table; the value of a key alone is ""."""
    with open(path, encoding="utf-8") as f:
        for line in f:
            key, *value = line.split(maxsplit=1) or [""]
            yield key, value[0].strip() if value else ""


def refusals(data: List[Triple], keys: List[str], needs: AudioNeeds) -> Dict[str, str]:
    """Return utterance -> reason for the utterances that cannot be decoded.

    Args:
        data: (path, name, type) as ESPnet's --data_path_and_name_and_type.
        keys: The utterances to check.
        needs: Requirements of the model.
    """
    found: Dict[str, str] = {}
    for path, _, kind in data:
        if kind != "sound":
            continue
        files = dict(_lines(path))
        for key in keys:
            file = files.get(key)
            reason = needs.refusal(file) if file else f"{path} names no file for it"
            if reason is not None:
                found.setdefault(key, reason)
    return found


class _Rest:
    """A loader without the refused utterances, which exits after the last one."""

    def __init__(self, loader: Any, refused: Dict[str, str], total: int, folder: Any):
        self.loader, self.refused, self.total = loader, refused, total
        self.folder = folder  # of the key file; the loader reads it while iterating

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator:
        if self.loader is not None:
            yield from self.loader
        self.folder.cleanup()
        shown = [f"{utt}: {why}" for utt, why in list(self.refused.items())[:SHOWN]]
        if len(self.refused) > SHOWN:
            shown.append(f"and {len(self.refused) - SHOWN} more")
        count = f"{len(self.refused)} of {self.total}"
        raise SystemExit(
            f"espnet_gq: error: {count} utterances were not decoded: {'; '.join(shown)}"
        )


def build_preprocess_fn(original: Callable) -> Callable:
    """Wrap a task's `build_preprocess_fn`: the function carries the AudioNeeds.

    ESPnet's commands call it with the training arguments just before they build the
    iterator.
    """

    def build_preprocess_fn(cls, args, train):
        function = original(cls, args, train)
        if function is not None and not train:
            function.gq_needs = AudioNeeds.of(args)
        return function

    return build_preprocess_fn


def build_streaming_iterator(original: Callable) -> Callable:
    """Wrap a task's `build_streaming_iterator`: audio is checked before decoding.

    Utterances that cannot be decoded are skipped and reported at the end.
    """

    def build_streaming_iterator(
        cls, data_path_and_name_and_type, preprocess_fn, collate_fn, key_file=None, **kw
    ):
        def build(key_file):
            return original(
                cls,
                data_path_and_name_and_type,
                preprocess_fn,
                collate_fn,
                key_file=key_file,
                **kw,
            )

        data = list(data_path_and_name_and_type)
        kinds = {kind for _, _, kind in data}
        if not kw.get("inference") or not kinds <= {"sound", "text"} or not data:
            return build(key_file)
        keys = [key for key, _ in _lines(key_file or data[0][0]) if key]
        needs = getattr(preprocess_fn, "gq_needs", AudioNeeds())
        refused = refusals(data, keys, needs)
        if not refused:
            return build(key_file)
        for utt, why in refused.items():
            logging.error(f"{utt} is not decoded: {why}")
        folder = tempfile.TemporaryDirectory()
        left = [key for key in keys if key not in refused]
        rest = Path(folder.name) / "keys"
        rest.write_text("".join(f"{key}\n" for key in left), encoding="utf-8")
        loader = build(str(rest)) if left else None
        return _Rest(loader, refused, len(keys), folder)

    return build_streaming_iterator
