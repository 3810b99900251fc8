"""Checks other libraries' functions while ESPnet trains, packs and decodes.

    python originals.py FOLDER

FOLDER is that of a tiny task (`tiny_task.Task`) with `train.yaml`. Whenever a file is
opened, renamed, removed or linked, and in every forward pass, the functions of PLACES
must be the ones from before the plugin was imported; otherwise the program exits with
status 1. Writes FOLDER/seen.json: stage -> event -> number of checks.
"""

import collections
import json
import os
import sys
from pathlib import Path

import torch
import torch.ao.quantization
from matplotlib.figure import Figure

PLACES = [
    *((torch, name) for name in ("save", "load", "empty")),
    *((torch.serialization, name) for name in ("save", "load")),
    *((Path, name) for name in ("open", "unlink", "symlink_to", "write_text")),
    *((os, name) for name in ("replace", "unlink", "symlink")),
    (Figure, "savefig"),
    *((torch.nn.Module, name) for name in ("to", "__call__", "load_state_dict")),
    (torch.nn.utils, "clip_grad_norm_"),
    (torch.ao.quantization, "quantize_dynamic"),
    (torch.quantization, "quantize_dynamic"),
    *((cls, "__init__") for cls in (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d)),
    *((cls, "__init__") for cls in (torch.nn.Embedding, torch.nn.RNNBase)),
]
ORIGINALS = [getattr(owner, name) for owner, name in PLACES]
EVENTS = ("open", "os.rename", "os.remove", "os.symlink")

seen: dict = collections.defaultdict(collections.Counter)
stage = "start"


def look(event: str) -> None:
    """Compare every function with the original."""
    seen[stage][event] += 1
    for (owner, name), original in zip(PLACES, ORIGINALS):
        if getattr(owner, name) is not original:
            sys.stderr.write(f"{owner.__name__}.{name} was replaced during {stage}\n")
            sys.stderr.flush()
            os._exit(1)


def train(folder: Path) -> None:
    """Train with plots, averaging and checkpoints, in two runs."""
    from espnet2.bin import asr_train
    from tiny_task import Task

    arguments = Task.arguments(
        Namespace(path=folder), folder / "train.yaml", "out", "--num_att_plot", "1"
    )
    options = arguments[arguments.index("espnet2.bin.asr_train") + 1 :]
    for epochs in ("1", "2"):
        asr_train.main([*options, "--max_epoch", epochs])


def train_with_lightning(folder: Path) -> None:
    """Train as `asr.sh --use_lightning true` does."""
    import lightning_runs

    lightning_runs.espnet2(folder, "lightning", begin=folder / "begin.pth")


def pack(folder: Path) -> None:
    """Pack the averaged model as stage 14 does."""
    from espnet2.bin import pack

    options = {
        "asr_train_config": "out/config.yaml",
        "asr_model_file": "out/valid.acc.ave.pth",
        "outpath": "model.zip",
    }
    pairs = [(f"--{key}", str(folder / name)) for key, name in options.items()]
    pack.main(["asr", *(word for pair in pairs for word in pair)])


def decode(folder: Path) -> None:
    """Decode with the packed model in int8, and with the model as trained."""
    from espnet2.bin import asr_inference

    for form, int8 in ((".packed.pth", "true"), (".pth", "false")):
        asr_inference.main(
            [
                *["--asr_train_config", str(folder / "out" / "config.yaml")],
                *["--asr_model_file", str(folder / "out" / f"valid.acc.ave{form}")],
                *["--data_path_and_name_and_type"],
                f"{folder}/valid/wav.scp,speech,sound",
                *["--output_dir", str(folder / f"decoded{form}"), "--ngpu", "0"],
                *["--beam_size", "2", "--quantize_asr_model", int8],
            ]
        )


def share(folder: Path) -> None:
    """Build a model from the zip that was packed."""
    import espnet_gq

    espnet_gq.Speech2Text.from_pretrained(
        folder / "model.zip", cachedir=folder / "cache", quantize_asr_model=True
    )


if __name__ == "__main__":
    from argparse import Namespace

    import espnet_gq.espnet  # noqa: F401

    where = Path(sys.argv[1])
    sys.addaudithook(lambda event, _: look(event) if event in EVENTS else None)
    torch.nn.modules.module.register_module_forward_hook(lambda *_: look("forward"))
    for step in (train, train_with_lightning, pack, decode, share):
        stage = step.__name__
        step(where)
    stage = "end"
    (where / "seen.json").write_text(json.dumps(seen))
