"""Decoding a recording with ESPnet's inference classes, with or without the plugin."""

import importlib
import itertools
from types import SimpleNamespace
from typing import Any, Dict

import numpy as np
import soundfile
import soxr
import torch
from espnet2.tasks.lm import LMTask

from tests.espnet.tiny_task import recordings

LENGTH = -6.0
"""Most tokens of a hypothesis; a negative number is absolute to ESPnet."""
SEARCH = {"beam_size": 2, "ctc_weight": 0.3, "maxlenratio": LENGTH}
OPTIONS: Dict[str, Dict[str, Any]] = {
    "asr": SEARCH,
    "st": {**SEARCH, "ctc_weight": 0.0},
    "slu": SEARCH,
    "s2t": SEARCH,
    "s2t_ctc": {"beam_size": 2, "maxlenratio": LENGTH},
    "asr_transducer": {"beam_size": 2},
    "lm": {"beam_size": 2, "maxlen": 6},
}
"""Arguments of the inference class of each task."""
PROMPT = "<unk> <generatetext> one two"
"""ESPnet drops the first token, which is a space with BPE."""


def speech(rate: int = 8000) -> np.ndarray:
    """Return a recording, float32, at a sampling rate in Hz."""
    _, path, _ = next(itertools.islice(recordings(), 7, None))
    samples, own = soundfile.read(path, dtype="float32")
    return soxr.resample(samples, own, rate).astype("float32")


def inference_class(where: str) -> Any:
    """Return ESPnet's class at "module:name"."""
    module, name = where.split(":")
    return getattr(importlib.import_module(module), name)


class Perplexity:
    """Scores text as `espnet2.bin.lm_calc_perplexity` does."""

    def __init__(self, lm_train_config: str, lm_file: str):
        self.model, args = LMTask.build_model_from_file(lm_train_config, lm_file)
        self.model.eval()
        self.tokens = [args.token_list.index(word) for word in PROMPT.split()]

    @torch.no_grad()
    def __call__(self, _: str) -> list:
        tokens = torch.tensor([self.tokens])
        nll, _ = self.model.nll(tokens, torch.tensor([len(self.tokens)]))
        return [("", [], [], SimpleNamespace(score=nll.sum().item()))]


def decode(speech2text: Any, task: str, rate: int = 8000) -> Dict[str, Any]:
    """Return {"tokens", "score"} of the best hypothesis; without a search no score."""
    if task == "lm":
        results = speech2text(PROMPT)
    elif getattr(getattr(speech2text, "asr_model", None), "postdecoder", None):
        results = speech2text(speech(rate), torch.tensor([3, 4]))
    else:
        results = speech2text(speech(rate))
    if isinstance(results, tuple):  # and what intermediate layers recognise
        results = results[0]
    if task == "asr_transducer":
        results = speech2text.hypotheses_to_results(results)
    best = [r[0] if isinstance(r, list) else r for r in results]  # of each speaker
    if best == results:
        best = best[:1]
    scores = [getattr(result[-1], "score", None) for result in best]
    return {
        "tokens": [result[1] for result in best],
        "score": None if None in scores else float(sum(scores)),
    }
