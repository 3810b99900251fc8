"""Checkpoints of the tiny task as they are before training: real files, in no time."""

import torch
import yaml

import espnet_gq.espnet  # noqa: F401
from espnet_gq.espnet.tasks import TASKS
from espnet_gq.nn.training import fit_quantizers


def task_class(asr_task="asr"):
    return TASKS[asr_task].load()


def build(task, config, asr_task="asr"):
    """Return the model that a training would build, and its arguments."""
    torch.manual_seed(0)
    cls = task_class(asr_task)
    args = cls.get_parser().parse_args(
        [
            *["--config", str(config), "--output_dir", str(task.path / "unused")],
            *["--token_type", "word", "--token_list", str(task.path / "tokens.txt")],
        ]
    )
    return cls.build_model(args), args


def save(task, config, name, asr_task="asr"):
    """Write config.yaml and model.pth to a folder as a training does; return it."""
    model, args = build(task, config, asr_task)
    fit_quantizers(model)
    folder = task.path / f"untrained_{name}"  # trainings have the other names
    folder.mkdir()
    text = yaml.safe_dump(vars(args))
    (folder / "config.yaml").write_text(text)
    torch.save(model.state_dict(), folder / "model.pth")
    return folder


def data(task, split="valid"):
    """Return the data options of a split."""
    return [
        (f"{task.path}/{split}/wav.scp", "speech", "sound"),
        (f"{task.path}/{split}/text", "text", "text"),
    ]
