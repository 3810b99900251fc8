"""From a family to its float, quantized, trained and packed models."""

from pathlib import Path
from typing import Any, Dict, Tuple

import numpy as np
import torch
import yaml
from torch import nn

from espnet_gq.bin import quantize
from espnet_gq.espnet.tasks import TASKS
from espnet_gq.nn.summary import summarize
from tests.espnet.families.bases import TRANSLATION
from tests.espnet.families.decoding import speech
from tests.espnet.families.family import Family
from tests.espnet.families.local import placed

BITS = 4
WHOLE = {"bits": BITS, "granularity": "channel"}


def arguments(family: Family, folder: Path, assets: Path, **changes: Any) -> Any:
    """Return the arguments that ESPnet's parser makes of a family's configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "train.yaml"
    config = placed(family.config(), assets)
    conf = {**(config.get("model_conf") or {}), **changes}
    path.write_text(yaml.safe_dump({**config, "model_conf": conf}))
    parser = TASKS[family.task].load().get_parser()
    return parser.parse_args(["--config", str(path), "--output_dir", str(folder)])


def save_float(family: Family, folder: Path, assets: Path) -> None:
    """Write config.yaml and model.pth of a float model with random weights."""
    args = arguments(family, folder, assets)
    torch.manual_seed(0)
    model = TASKS[family.task].load().build_model(args)
    (folder / "config.yaml").write_text(yaml.safe_dump(vars(args)))
    torch.save(model.state_dict(), folder / "model.pth")


def quantized(folder: Path) -> Path:
    """Quantize the float model of a folder without data; return the zip."""
    files = [str(folder / name) for name in ("config.yaml", "model.pth")]
    path = folder / "small.zip"
    quantize.main([*files, "--bits", str(BITS), "-o", str(path)])
    return path


def shares(model: nn.Module) -> Tuple[float, float]:
    """Return the quantized share of all parameters, and of those in matrices.

    A matrix has at least two dimensions that are larger than 1.
    """
    summary = summarize(model)
    weights = sum(summary.numel.values())
    left = sum(
        parameter.numel
        for parameter in summary.left
        if sum(n > 1 for n in model.get_parameter(parameter.name).shape) > 1
    )
    return summary.share, weights / (weights + left)


def batch(family: Family, args: Any) -> Dict[str, torch.Tensor]:
    """Return a batch of two utterances, made by ESPnet's preprocessor and collator."""
    task = TASKS[family.task].load()
    preprocess = task.build_preprocess_fn(args, True)
    items = []
    for name, words in (("a", "three"), ("b", "seven")):
        data = _data(family, words)
        items.append((name, preprocess(name, data) if preprocess else data))
    np.random.seed(0)
    made = task.build_collate_fn(args, True)(items)[1]
    if family.rate > 8000 or getattr(args, "input_size", None) == 1:
        # The preprocessor of s2t adds a channel, which these classes do not take.
        made["speech"] = made["speech"].reshape(2, -1)
    return made


def _data(family: Family, words: str) -> Dict[str, Any]:
    if family.task == "lm":
        return {"text": f"<unk> <generatetext> {words} one two"}
    audio = speech(family.rate)
    if words == "seven":
        audio = audio[: len(audio) - 400]
    if family.task == "st":
        return {"speech": audio, "text": TRANSLATION[words], "src_text": words}
    if family.task in ("s2t", "s2t_ctc"):
        marks = "<eng><asr><notimestamps>"
        if family.task == "s2t_ctc":
            marks = "<eng><asr>"
        text = f"{marks} {words}"
        return {"speech": audio, "text": text, "text_prev": "<na>", "text_ctc": words}
    if "transcript_token_list" in family.options:
        return {"speech": audio, "text": words, "transcript": words}
    if "text_spk2" in str(family.options):
        return {"speech": audio, "text": words, "text_spk2": "nine"}
    return {"speech": audio, "text": words}
