"""Word error rates of the float and the quantized model, with their interval."""

from pathlib import Path
from typing import Any, Dict, Mapping

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
from espnet_gq.espnet.sharing.archive import read_yaml
from espnet_gq.espnet.sharing.pretrained import Source, Speech2Text, find_model

BEAM = 5


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
    found = {}
    for utterance, samples in recordings.audio.items():
        results = decode(samples)
        if hasattr(decode, "hypotheses_to_results"):  # the second transducer task
            results = decode.hypotheses_to_results(results)
        found[utterance] = (results[0][0] or "").split()
    references = {u: text.split() for u, text in recordings.text.items()}
    # Without speakers utterances are drawn, as those of one.
    speakers = recordings.speakers or dict.fromkeys(found, "")
    return units_by_utterance(references, found, speakers)


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
