"""Tiny models of random weights to decode chunk by chunk, and what decoding wrote."""

import argparse

import pytest
import torch
import yaml
from espnet2.tasks.asr import ASRTask
from tiny_task import TOKENS

from espnet_gq.nn.training import fit_quantizers

RNN = {
    "encoder": "rnn",
    "encoder_conf": {
        "bidirectional": False,
        "num_layers": 2,
        "hidden_size": 16,
        "output_size": 16,
        "subsample": [2, 2],
    },
}
BLOCKS = {
    "output_size": 16,
    "attention_heads": 2,
    "linear_units": 32,
    "num_blocks": 2,
    "block_size": 8,
    "hop_size": 3,
    "look_ahead": 3,
}
BLOCK = {"encoder": "contextual_block_conformer", "encoder_conf": BLOCKS}
FRONTEND = {"fs": 8000, "n_fft": 256, "hop_length": 128, "n_mels": 20}
COMMON = {
    "token_list": TOKENS,
    "token_type": "word",
    "frontend_conf": FRONTEND,
    "normalize": None,
    "decoder": "transducer",
    "decoder_conf": {"hidden_size": 16},
    "joint_net_conf": {"joint_space_size": 16},
    "model_conf": {"ctc_weight": 0.3, "report_cer": False, "report_wer": False},
}
ATTENTION = {
    "decoder": "transformer",
    "decoder_conf": {"attention_heads": 2, "linear_units": 32, "num_blocks": 1},
}


def save(folder, **changes):
    """Write a model with random weights; returns its configuration and its file."""
    args = vars(ASRTask.get_parser().parse_args([]))
    args.update(yaml.safe_load(yaml.safe_dump({**COMMON, **changes})))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(args))
    torch.manual_seed(0)
    model = ASRTask.build_model(argparse.Namespace(**args))
    fit_quantizers(model)
    torch.save(model.state_dict(), folder / "model.pth")
    return str(folder / "config.yaml"), str(folder / "model.pth")


def command(files, data, output, *extra):
    """Return the arguments of a decoding."""
    return [
        *["--asr_train_config", files[0], "--asr_model_file", files[1]],
        *["--data_path_and_name_and_type", f"{data}/wav.scp,speech,sound"],
        *["--output_dir", str(output), "--num_workers", "0", *extra],
    ]


def read(folder, rank=1):
    """Return {file: contents} of a decoding; scores as numbers."""
    folder = folder / f"{rank}best_recog"
    names = ("text", "token", "token_int")
    lines = (folder / "score").read_text().splitlines()
    scores = [line.split()[1].removeprefix("tensor(").rstrip(")") for line in lines]
    return (
        {name: (folder / name).read_text() for name in names},
        pytest.approx([float(score) for score in scores], abs=1e-3),
    )
