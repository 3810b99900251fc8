"""What a model computes on while it is calibrated: arguments of its forward pass."""

import argparse
import contextlib
import copy
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Tuple

import numpy as np
import torch

from espnet_gq.espnet.quantizing.data import Recordings, rate_of
from espnet_gq.espnet.quantizing.model import FloatModel
from espnet_gq.espnet.sharing.pretrained import build
from espnet_gq.espnet.tasks import Task
from espnet_gq.recipe.datadir import read_table

Arrays = Dict[str, np.ndarray]
OWSM = ("s2t", "s2t_ctc")
"""Tasks whose texts have symbols such as <eng> between words."""
BEAM = 5
NOTHING = "<na>"
"""OWSM's symbol for a text that is not there."""
UNKNOWN = ("<nolang>", "<asr>")
"""OWSM's symbols for a language that is not known, and for transcribing."""


@dataclass(frozen=True)
class Items:
    """The arguments of the model's forward pass, one utterance each.

    Attributes:
        items: The arguments.
        labels: Where the labels come from, as a sentence says it.
        seconds: Duration of the audio; 0 for a language model.
    """

    items: List[Dict[str, torch.Tensor]]
    labels: str
    seconds: float = 0.0

    def checksum(self) -> str:
        """Return the SHA-256 of the arguments."""
        digest = hashlib.sha256()
        for item in self.items:
            for name, value in sorted(item.items()):
                digest.update(f"{name} {tuple(value.shape)}".encode())
                digest.update(value.contiguous().numpy().tobytes())
        return digest.hexdigest()


def make_items(found: FloatModel, recordings: Recordings) -> Items:
    """Return what to compute on.

    Without transcripts the labels are what the model itself recognises: its best CTC
    path, or, where it has no CTC over its output, the result of ESPnet's decoding.

    Args:
        found: The model, not a language model.
        recordings: Its transcripts, if any, as in the training of the model: of the
            tasks s2t and s2t_ctc with their symbols ("<eng><asr> ..."), of the task st
            the translations.

    Raises:
        ValueError: If the transcripts cannot be used, or nothing is recognised.
    """
    prepare = _preprocessor(found)
    labels = "the transcripts"
    recognise: Optional[Callable[[np.ndarray], Tuple[List[int], str]]] = None
    if not recordings.text:
        recognise = _recogniser(found)
    items, samples, unlabelled = [], 0, 0
    for utterance, audio in recordings.audio.items():
        given: Dict[str, Any] = {"speech": audio}
        if recognise is None:
            given |= _texts(found, utterance, recordings.text[utterance])
        with _named(utterance):
            data = prepare(utterance, given)
            if recognise is not None:
                ids, labels = recognise(audio)
                data |= _recognised(found, ids)
            data = _completed(found, data)
            if not len(data["text"]):  # no model computes on an empty transcript
                unlabelled += 1
                continue
            items.append(_collated(found, utterance, data))
            samples += len(audio)
    if not items:
        raise ValueError(
            "no utterance has labels; allowed: recordings of speech that the model "
            "recognises, or their transcripts"
        )
    if any("src_text" in item for item in items):
        labels += "; source texts: the model's own best CTC paths"
    if unlabelled:
        labels += f"; without labels and left out: {unlabelled} utterances"
    return Items(items, labels, samples / rate_of(found.config))


def make_text_items(found: FloatModel, text: Path, number: Optional[int]) -> Items:
    """Return what a language model computes on.

    Args:
        found: The model, of the task lm.
        text: Lines of an utterance and its text.
        number: Take that many lines, spread evenly. None: all.

    Raises:
        OSError, ValueError: If there are none, or they cannot be used.
    """
    prepare, table = _preprocessor(found), read_table(text)
    keys = sorted(table)
    if number is not None and number < len(keys):
        keys = [keys[i * len(keys) // number] for i in range(number)]
    items = []
    for key in keys:
        if table[key].strip():
            with _named(key):
                data = prepare(key, {"text": table[key]})
                if len(data["text"]):  # no model computes on an empty text
                    items.append(_collated(found, key, data))
    if not items:
        raise ValueError(
            f"{text} has no text; allowed: lines of an utterance and its text"
        )
    return Items(items, "the text itself")


def forward_of(found: FloatModel):
    """Return a function that computes with the model on an item."""

    def forward(item: Mapping[str, torch.Tensor]) -> None:
        # ESPnet's models change the batch in place.
        found.model(**{name: value.clone() for name, value in item.items()})

    return forward


# ---- ESPnet's preprocessing ---------------------------------------------------------
@contextlib.contextmanager
def _named(utterance: str) -> Iterator[None]:
    """Turn errors of ESPnet's preprocessing into one that names the utterance."""
    try:
        yield
    except Exception as e:  # whatever ESPnet's preprocessors raise
        reason = " ".join(str(e).split())
        raise ValueError(
            f"{utterance} cannot be used ({type(e).__name__}: {reason}); allowed: "
            "recordings and text as in the training of the model"
        ) from e


def _args(found: FloatModel) -> argparse.Namespace:
    return argparse.Namespace(**copy.deepcopy(found.located))  # ESPnet changes them


def _preprocessor(found: FloatModel) -> Callable[[str, Dict[str, Any]], Arrays]:
    args = _args(found)
    try:
        prepare = found.task.load().build_preprocess_fn(args, False)
    except Exception as e:  # whatever ESPnet's preprocessors raise
        reason = " ".join(str(e).split())
        raise ValueError(
            f"{found.source.config_file}: its preprocessing cannot be built "
            f"({type(e).__name__}: {reason}); allowed: a configuration whose token "
            "list and tokenizer are there"
        ) from e
    return prepare or (lambda utterance, data: data)


def _collated(
    found: FloatModel, utterance: str, data: Arrays
) -> Dict[str, torch.Tensor]:
    args = _args(found)
    collate = found.task.load().build_collate_fn(args, False)
    return collate([(utterance, data)])[1]


# ---- Texts by task ------------------------------------------------------------------
def _is_owsm(found: FloatModel) -> bool:
    return found.task.name in OWSM


def _symbols(text: str) -> Tuple[str, str]:
    """Split a transcript of OWSM into its leading symbols and the rest."""
    at = 0
    while text.startswith("<", at) and ">" in text[at:]:
        at = text.index(">", at) + 1
    return text[:at], text[at:].strip()


def _texts(found: FloatModel, utterance: str, text: str) -> Dict[str, str]:
    """Return the texts of an utterance that ESPnet's preprocessing takes."""
    if not _is_owsm(found):
        return {"text": text}
    symbols, words = _symbols(text)
    if symbols.count("<") < 2:
        raise ValueError(
            f"the transcript of {utterance} has no symbols of language and task; "
            "allowed: text as in the training of the model, such as '<eng><asr>"
            f"{'<notimestamps>' if found.task.name == 's2t' else ''} ...'"
        )
    return {"text": text, "text_prev": NOTHING, "text_ctc": words}


def _recognised(found: FloatModel, ids: List[int]) -> Arrays:
    """Return the texts of an utterance by the tokens that the model recognised."""
    data = {"text": np.asarray(ids, np.int64)}
    if not _is_owsm(found):
        return data
    tokens: List[str] = list(found.config["token_list"])
    symbol = [tokens[i].startswith("<") and tokens[i].endswith(">") for i in ids]
    words = [i for i, special in zip(ids, symbol) if not special]
    data["text_prev"] = np.array([tokens.index(NOTHING)], np.int64)
    if found.task.name == "s2t":
        data["text_ctc"] = np.asarray(words or ids, np.int64)
        return data
    prefix = ids[:2] if symbol[:2] == [True, True] else map(tokens.index, UNKNOWN)
    data["prefix"] = np.array(list(prefix), np.int64)
    data["text_ctc"] = np.concatenate([data["prefix"], np.array(words, np.int64)])
    return data


def _completed(found: FloatModel, data: Arrays) -> Arrays:
    """Add the source text that a translation model's own CTC recognises."""
    if found.task.name == "st" and getattr(found.model, "asr_weight", 0) > 0:
        ids = _best_path(found, np.asarray(data["speech"]))
        data["src_text"] = np.asarray(ids or [1], np.int64)
    return data


# ---- What the model recognises ------------------------------------------------------
def _recogniser(
    found: FloatModel,
) -> Callable[[np.ndarray], Tuple[List[int], str]]:
    """Return a function from samples to (tokens, where they come from)."""
    model: Any = found.model
    has_ctc = any(getattr(model, name, None) is not None for name in ("ctc", "ctc_lin"))
    if has_ctc and not _is_owsm(found) and found.task.name != "st":
        return lambda audio: (
            _best_path(found, audio),
            "the model's own best CTC paths",
        )
    decode = build(found.task.inference_class(), found.source, {"beam_size": BEAM})

    return lambda audio: (
        list(best_result(found.task, decode, audio)[2]),
        "what the model itself recognises",
    )


def best_result(task: Task, decode: Any, audio: np.ndarray) -> Tuple[Any, ...]:
    """Return the best result of ESPnet's inference class: text, tokens, ids, ..."""
    if task.name == "s2t_ctc" and hasattr(decode, "best_path"):
        results = decode.best_path(audio)  # much faster than its search
    else:
        results = decode(audio)
    if hasattr(decode, "hypotheses_to_results"):  # of the task asr_transducer
        results = decode.hypotheses_to_results(results)
    if isinstance(results, tuple):  # with results of intermediate layers
        results = results[0]
    return results[0]


@torch.no_grad()
def _best_path(found: FloatModel, samples: np.ndarray) -> List[int]:
    """Return the labels of the best CTC path."""
    model: Any = found.model
    speech = torch.from_numpy(samples).float().view(1, -1)
    encoded, *_ = model.encode(speech, torch.tensor([speech.shape[1]]))
    encoded = encoded[0] if isinstance(encoded, tuple) else encoded
    if getattr(model, "ctc", None) is not None:
        best = model.ctc.argmax(encoded)[0]
    else:
        best = model.ctc_lin(encoded)[0].argmax(-1)
    blank = getattr(model, "blank_id", 0)
    return [i for i in torch.unique_consecutive(best).tolist() if i != blank]
