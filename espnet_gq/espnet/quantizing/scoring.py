"""Word error rates of the float and the quantized model, with their interval."""

import math
import re
from pathlib import Path
from typing import Any, Dict, List, Mapping

import torch

from espnet_gq.analysis.tables import markdown
from espnet_gq.analysis.wer import (
    Interval,
    Units,
    bootstrap,
    paired_bootstrap,
    units_by_utterance,
)
from espnet_gq.espnet.quantizing.data import Recordings
from espnet_gq.espnet.quantizing.items import BEAM, OWSM, Items, best_result
from espnet_gq.espnet.sharing.archive import read_yaml
from espnet_gq.espnet.sharing.pretrained import Source, Speech2Text, find_model

SYMBOL = re.compile(r"<[^<>\s]+>")
"""Such as <eng> in OWSM's texts, which are no words."""


@torch.no_grad()
def error_units(
    source: Source, recordings: Recordings, options: Mapping[str, Any]
) -> Units:
    """Decode with a model; return errors and words by utterance.

    Args:
        source: Its files.
        recordings: With transcripts.
        options: Arguments of ESPnet's Speech2Text.
    """
    model = find_model(source)
    chosen: Dict[str, Any] = {"beam_size": BEAM}
    config = read_yaml(model.config_file)
    if model.task.name == "asr" and config.get("decoder") in (None, "none"):
        chosen["ctc_weight"] = 1.0
    decode = Speech2Text.from_pretrained(source, **{**chosen, **options})

    def words(text: str) -> List[str]:
        return (SYMBOL.sub(" ", text) if model.task.name in OWSM else text).split()

    found = {}
    for utterance, samples in recordings.audio.items():
        found[utterance] = words(best_result(model.task, decode, samples)[0] or "")
    references = {u: words(text) for u, text in recordings.text.items()}
    # Without speakers utterances are drawn, as those of one.
    speakers = recordings.speakers or dict.fromkeys(found, "")
    return units_by_utterance(references, found, speakers)


@torch.no_grad()
def perplexity(source: Source, items: Items) -> float:
    """Return the perplexity of a language model, per token.

    Args:
        source: Its files.
        items: The text.
    """
    found = find_model(source)
    load = found.task.load().build_model_from_file
    model = load(found.config_file, found.checkpoint)[0].eval()
    total, tokens = 0.0, 0
    for item in items.items:
        loss, _, weight = model(**{name: t.clone() for name, t in item.items()})
        total += float(loss) * int(weight)
        tokens += int(weight)
    return math.exp(total / max(tokens, 1))


def wer_table(before: Units, after: Units, what: str) -> str:
    """Return both word error rates and their difference, as Markdown."""
    rows = [
        ["float", _cell(bootstrap(before))],
        ["quantized", _cell(bootstrap(after))],
        ["difference", _cell(paired_bootstrap(before, after))],
    ]
    return markdown(["model", f"WER on {what} [95%]"], rows)


def _cell(interval: Interval) -> str:
    return f"{interval.value:.2f}% [{interval.low:.2f}, {interval.high:.2f}]"


def read_options(path: Path) -> Dict[str, Any]:
    """Return the arguments of Speech2Text that a decoding configuration names."""
    return dict(read_yaml(path))
