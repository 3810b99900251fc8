"""Tiny packed recognizers of random weights, and real utterances for them.

The weights are larger than initial ones, so that the logits differ much from frame to
frame, and blank is made as likely as makes many tokens come out.
"""

import argparse
from pathlib import Path
from typing import Any, Dict

import numpy as np
import soundfile
import torch
import yaml
from espnet2.tasks.asr import ASRTask
from tiny_task import recordings

import espnet_gq.espnet  # noqa: F401
from espnet_gq.nn.training import fit_quantizers
from espnet_gq.packing import pack, save

LETTERS = [chr(ord("a") + i) for i in range(26)]
WORDS = ["<blank>", "<unk>", *(f"w{letter}" for letter in LETTERS), "<sos/eos>"]
CHARACTERS = ["<blank>", "<unk>", "<space>", *LETTERS, "<sos/eos>"]
FRONTEND = {"fs": 8000, "n_fft": 256, "hop_length": 128, "n_mels": 20}
GQ = {"gq_conf": {"bits": 5}}
RNN: Dict[str, Any] = {
    "bidirectional": False,
    "num_layers": 2,
    "hidden_size": 40,
    "output_size": 24,
    **GQ,
}


def transducer(encoder: str, encoder_conf: Dict[str, Any], **changes) -> Dict[str, Any]:
    """Return the options of a transducer of ESPnet's ASR task."""
    return {
        "token_list": WORDS,
        "token_type": "word",
        "frontend_conf": FRONTEND,
        "normalize": None,
        "encoder": encoder,
        "encoder_conf": {**RNN, **encoder_conf},
        "decoder": "gq_transducer",
        "decoder_conf": {"hidden_size": 24, "gq_conf": {"bits": 3}},
        "joint_net_conf": {"joint_space_size": 32},
        "model": "gq_espnet",
        "model_conf": {
            "ctc_weight": 0.3,
            "report_cer": False,
            "report_wer": False,
            "gq_conf": {"bits": 6},
        },
        **changes,
    }


HALF_FLOAT = {"bits": 2, "rules": [{"pattern": "*_hh_*", "float": True}]}
KINDS: Dict[str, Dict[str, Any]] = {
    "lstm": transducer("gq_rnn", {"subsample": [2, 2]}),
    "lstm_subsample_3": transducer("gq_rnn", {"subsample": [3, 2]}),
    "lstm_global_mvn": transducer(
        "gq_rnn", {"subsample": [1, 2]}, normalize="global_mvn"
    ),
    "lstm_utterance_mvn": transducer(
        "gq_rnn",
        {"subsample": [2, 2]},
        normalize="utterance_mvn",
        normalize_conf={"norm_vars": True},
    ),
    "gru_plain": transducer(
        "gq_rnn",
        {"rnn_type": "gru", "use_projection": False},
        decoder_conf={"rnn_type": "gru", "num_layers": 2, "hidden_size": 16, **GQ},
    ),
    "blstm": transducer("gq_rnn", {"bidirectional": True, "subsample": [2, 1]}),
    "bgru_plain": transducer(
        "gq_rnn", {"bidirectional": True, "rnn_type": "gru", "use_projection": False}
    ),
    "vgg_lstm": transducer("gq_vgg_rnn", {}, token_type="char", token_list=CHARACTERS),
    "vgg_bgru_odd": transducer(
        "gq_vgg_rnn",
        {"bidirectional": True, "rnn_type": "gru"},
        frontend_conf={**FRONTEND, "n_mels": 22},
    ),
    "some_float": transducer("gq_rnn", {"gq_conf": HALF_FLOAT, "subsample": [2, 2]}),
    "other_frontend": transducer(
        "gq_rnn",
        {"subsample": [2, 2]},
        frontend_conf={
            **{"fs": 8000, "n_fft": 200, "win_length": 160, "hop_length": 80},
            **{"window": "hamming", "center": False, "n_mels": 23, "htk": True},
        },
    ),
}
"""Name -> options of a training."""


def make(
    folder: Path,
    options: Dict[str, Any],
    blank: float = 1.0,
    task: Any = ASRTask,
    sharpness: float = 1.0,
):
    """Write config.yaml and a packed checkpoint; return the pair.

    Args:
        folder: Where to.
        options: Options of the training.
        blank: What is added to the logit of blank.
        task: ESPnet's task.
        sharpness: What the logits are multiplied by.
    """
    folder.mkdir(parents=True, exist_ok=True)
    options = yaml.safe_load(yaml.safe_dump(options))
    if options["normalize"] == "global_mvn":
        options["normalize_conf"] = {"stats_file": str(folder / "stats.npz")}
        np.savez(folder / "stats.npz", **statistics(options["frontend_conf"]))
    given = {**vars(task.get_parser().parse_args([])), **options}
    (folder / "config.yaml").write_text(yaml.safe_dump(given))
    torch.manual_seed(5)
    model = task.build_model(argparse.Namespace(**given))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
        joint = getattr(model, "joint_network", None)
        ctc = getattr(model, "ctc", None)
        output = getattr(ctc, "ctc_lo", None) if joint is None else joint.lin_out
        if output is not None:
            output.bias[0] += blank
            output.bias.mul_(sharpness)
            output.weight.mul_(sharpness)
    fit_quantizers(model)
    save(pack(model), folder / "model.packed.pth")
    return folder / "config.yaml", folder / "model.packed.pth"


def statistics(frontend: Dict[str, Any]) -> Dict[str, Any]:
    """Return statistics as ESPnet's stage 10 writes them."""
    mean, std = np.linspace(-9, -6, frontend["n_mels"]), 2.5
    return {"count": 10, "sum": 10 * mean, "sum_square": 10 * (mean**2 + std**2)}


def utterances(count: int):
    """Return {name: samples} of recordings, each of three spoken digits."""
    paths = [path for _, path, _ in recordings()]
    every = max(1, len(paths) // (3 * count))
    paths = paths[::every][: 3 * count]
    samples = [soundfile.read(path, dtype="float32")[0] for path in paths]
    return {
        paths[i].stem: np.concatenate(samples[i : i + 3])
        for i in range(0, len(paths) - 2, 3)
    }
