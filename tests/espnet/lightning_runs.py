"""Trainings through Lightning, in a process of their own: they leave traces in it.

The folder is that of a tiny task (see tiny_task.Task) and has `train.yaml`, the float
checkpoint `float.pth` and, where ESPnet3 is installed, `esp2_asr.yaml` and `dataset`.
"""

import sys

import torch
from espnet2.bin import lightning_train
from lightning.pytorch.callbacks import Callback

EPOCHS = 2
STOP_AT = (1, 2)
"""Epoch and batch at which the training "killed" ends for the first time."""


class Stopped(Exception):
    """A training was ended by the probe."""


class Probe(Callback):
    """Keeps the state a training begins with, and may end it as a crash would."""

    def __init__(self, begin=None, stop_at=None):
        self.begin = begin
        self.stop_at = stop_at

    def on_train_start(self, trainer, pl_module):
        if self.begin is not None:
            torch.save(dict(pl_module.state_dict()), self.begin)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == self.stop_at:
            raise Stopped


def espnet2(folder, output, **probe):
    """Train as `asr.sh --use_lightning true --pretrained_model float.pth` does."""
    lightning_train.user_callback_choices["probe"] = lambda: Probe(**probe)
    data = []
    for split in ("train", "valid"):
        at = folder / split
        data += [
            f"--{split}_data_path_and_name_and_type={at}/wav.scp,speech,sound",
            f"--{split}_data_path_and_name_and_type={at}/text,text,text",
            f"--{split}_shape_file={at}/speech_shape",
        ]
    trainer = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": EPOCHS,
        "log_every_n_steps": 1,
        "best_model_criterion": [["valid/loss", "min", 2]],
    }
    (folder / output).mkdir(exist_ok=True)
    sys.argv = [
        *["lightning_train", "--task", "asr", "--config", f"{folder}/train.yaml"],
        *["--lightning_conf", str(trainer), "--output_dir", f"{folder}/{output}"],
        *["--token_type", "word", "--token_list", f"{folder}/tokens.txt"],
        *["--scheduler", "warmuplr", "--scheduler_conf", "warmup_steps=5"],
        *["--init_param", f"{folder}/float.pth", "--user_callbacks", "probe", *data],
    ]
    try:
        lightning_train.main()
    except Stopped:
        assert probe


def espnet3(folder):
    """Train with the esp2_asr system, as the `run.py` of a recipe of egs3 does."""
    from espnet3.systems.esp2_asr.system import ASRSystem
    from omegaconf import OmegaConf

    config = OmegaConf.load(folder / "esp2_asr.yaml")
    ASRSystem(training_config=config).train()


def train_all(folder):
    """Train everything that the tests look at."""
    if (folder / "esp2_asr.yaml").exists():
        espnet3(folder)
    espnet2(folder, "whole", begin=folder / "whole.begin.pth")
    espnet2(folder, "killed", stop_at=STOP_AT)
    espnet2(folder, "killed")
