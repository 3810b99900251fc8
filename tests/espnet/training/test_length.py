"""A training that is resumed with another length says what becomes of the annealing."""

import logging
import re
import shutil

import pytest
import torch
from forked import forked
from tiny_task import Task
from torch import nn
from untrained import task_class

import espnet_gq
from espnet_gq.espnet.training.length import (
    compare_lengths,
    follow_configuration,
    say_if_unfinished,
)
from espnet_gq.packing import load_state_dict, quantized_names
from espnet_gq.quantizer import Quantizer

BATCHES = 2
"""Optimizer steps of an epoch."""
EPOCHS = 2


def quantizers(steps=None, total=None, step=0, **conf):
    """Return the quantizers of a layer, their annealing at `step` of `total`."""
    annealing = {"steps": steps, **conf.pop("annealing", {})}
    net = espnet_gq.prepare(
        nn.Sequential(nn.Linear(4, 4)), {"bits": 5, "annealing": annealing, **conf}
    )
    found = [module for module in net.modules() if isinstance(module, Quantizer)]
    for quantizer in found:
        quantizer.step, quantizer.total_steps = step, total or steps or 0
    return found


@pytest.mark.parametrize(
    "state, planned, slack, words",
    [
        ({"total": 100, "step": 100}, 200, 0, "step 200: 100 steps are trained at the"),
        ({"total": 100, "step": 40}, 200, 0, "step 100, as it was begun, and the trai"),
        ({"total": 100, "step": 150}, 200, 0, "200: 50 steps are trained at the final"),
        ({"total": 100}, 101, 0, "at step 101: 1 steps are trained at the final"),
        ({"total": 100}, 104, 5, None),
        ({"total": 100}, 96, 5, None),
        ({"total": 100}, 100, 0, None),
        ({"total": 100}, None, 0, None),
        ({"total": 100, "step": 40}, 50, 0, "it stops at temperature 12.2 of 50"),
        ({"steps": 100}, 200, 0, None),  # as the user asked for
        ({"steps": 100}, 50, 0, "step 100 (gq_conf.annealing.steps) and the training"),
        ({"total": 100, "method": "uniform"}, 200, 0, None),  # has no annealing
        ({"total": 9, "annealing": {"warmup_steps": 9}}, 9, 0, "nothing is quant"),
        ({"total": 9, "annealing": {"warmup_steps": 8}}, 9, 0, None),
    ],
    ids=str,
)
def test_lengths_that_differ(caplog, state, planned, slack, words):
    found = quantizers(**state)
    with caplog.at_level(logging.INFO):
        caplog.clear()
        compare_lengths(found, planned, slack)
    assert len(caplog.records) == (words is not None)
    if words:
        message = caplog.text
        assert words in message and caplog.records[0].levelname == "WARNING"
        advice = f"set gq_conf.annealing.steps to {planned}"
        assert advice in message or "warmup_steps" in message


@pytest.mark.parametrize(
    "step, total, said", [(100, 100, False), (96, 100, False), (50, 100, True)]
)
def test_a_training_that_ends_before_its_annealing(caplog, step, total, said):
    say_if_unfinished(quantizers(step=step, total=total))
    assert ("temperature 12.2 of 50" in caplog.text) == said


def test_a_new_length_is_followed(caplog):
    found = quantizers(steps=200, total=100, step=100)
    follow_configuration(found)
    assert {q.total_steps for q in found} == {200}
    assert (
        "goes on over 200 (gq_conf.annealing.steps); at step 100 the temperature "
        in (caplog.text)
    )
    assert "goes from 50 to 12.2" in caplog.text
    caplog.clear()
    follow_configuration(found)
    follow_configuration(quantizers(total=100))
    assert not caplog.records


# ---- ESPnet's trainer ---------------------------------------------------------------
@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return Task(tmp_path_factory.mktemp("length"), train=4 * BATCHES, valid=1)


def train(task, output, **changes):
    """Train in a process of its own; return the log."""
    config = task.config(f"{output}.yaml", use_tensorboard=False, **changes)
    command = task.arguments(config, output)[5:]

    def main():
        logging.getLogger().handlers.clear()  # of pytest: ESPnet sets up its own
        task_class().main(cmd=command)

    forked(task.path, main)
    return (task.path / "forked0.log").read_text()


def read(folder, name="latest.pth"):
    """Return {(step, total steps)} of a checkpoint's quantizers."""
    state = load_state_dict(folder / name)
    return {
        tuple(round(v) for v in state[f"{n}_quantizer.saved_state"].tolist()[2:])
        for n in quantized_names(state)
    }


@pytest.fixture(scope="module")
def begun(task):
    """A finished training, and what it said."""
    log = train(task, "begun", max_epoch=EPOCHS)
    return task.path / "begun", log


def resumed(task, begun, output, **changes):
    shutil.copytree(begun[0], task.path / output, symlinks=True)
    return train(task, output, **changes)


def warnings(log):
    return re.findall(r"WARNING: (GQ: .*)", log)


def test_an_undisturbed_training_says_nothing(task, begun):
    assert not warnings(begun[1])
    assert read(begun[0]) == {(BATCHES * EPOCHS, BATCHES * EPOCHS)}
    assert not warnings(resumed(task, begun, "again", max_epoch=EPOCHS))


def test_a_larger_max_epoch(task, begun):
    log = resumed(task, begun, "larger", max_epoch=4)
    (said,) = warnings(log)  # once, not every epoch
    assert (
        "ends at optimizer step 4, as it was begun, and the training now at step 8: "
        in (said)
    )
    assert "4 steps are trained at the final temperature 50" in said
    assert said.endswith("set gq_conf.annealing.steps to 8")
    assert read(task.path / "larger") == {(8, 4)}


def test_a_larger_max_epoch_with_the_advice(task, begun):
    steps = {
        f"{part}_conf__gq_conf": {"bits": 5, "annealing": {"steps": 8}}
        for part in ("encoder", "decoder", "model")
    }
    shutil.copytree(begun[0], task.path / "advised", symlinks=True)
    checkpoint = task.path / "advised" / "checkpoint.pth"
    states = torch.load(checkpoint, weights_only=False)
    for name in quantized_names(states["model"]):  # as this configuration has them
        states["model"][f"{name}_quantizer.saved_state"][0] = 5
    torch.save(states, checkpoint)
    log = train(task, "advised", max_epoch=4, **steps)
    (said,) = warnings(log)
    assert "was begun over 4 optimizer steps and goes on over 8" in said
    assert read(task.path / "advised") == {(8, 8)}
    temperatures = [float(t) for t in re.findall(r"gq_temperature=([\d.]+)", log)]
    assert temperatures and min(temperatures) < 20  # annealed, not held at its end


def test_a_smaller_max_epoch(task, begun):
    shutil.copytree(begun[0], task.path / "smaller", symlinks=True)
    checkpoint = task.path / "smaller" / "checkpoint.pth"
    states = torch.load(checkpoint, weights_only=False)
    for name in quantized_names(states["model"]):  # as of a training of ten epochs
        states["model"][f"{name}_quantizer.saved_state"][3] = 10 * BATCHES
    torch.save(states, checkpoint)
    log = train(task, "smaller", max_epoch=3)
    first, last = warnings(log)
    assert "ends at optimizer step 20, as it was begun, and the training at step 6" in (
        first
    )
    assert "has ended at optimizer step 6 of 20 of its annealing" in last
    assert read(task.path / "smaller") == {(6, 20)}


# ---- Lightning ----------------------------------------------------------------------
@pytest.mark.parametrize(
    "gq_conf, options, words",
    [
        ({}, {"max_epochs": 2}, []),
        ({}, {"max_epochs": 4}, ["20 steps are trained at the final temperature"]),
        ({}, {"max_steps": 25, "max_epochs": -1}, ["now at step 25: 5 steps are"]),
        (
            {"annealing": {"steps": 40}},
            {"max_epochs": 4},
            ["20 optimizer steps and goe"],
        ),
        (
            {"annealing": {"steps": 80}},
            {"max_epochs": 4},
            [
                "goes on over 80",
                "training at step 40",
                "ended at optimizer step 40 of 80",
            ],
        ),
    ],
    ids=str,
)
def test_lightning(tmp_path, caplog, gq_conf, options, words):
    lightning = pytest.importorskip("lightning", reason="lightning is not installed")
    from espnet_gq.espnet.training.lightning import GQCallback

    class Net(lightning.LightningModule):
        def __init__(self, gq_conf):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
            self.net = espnet_gq.prepare(self.net, {"bits": 5, **gq_conf})

        def training_step(self, batch, batch_idx):
            return self.net(batch).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

        def train_dataloader(self):
            return torch.utils.data.DataLoader(torch.randn(30, 4), batch_size=3)

    def fit(module, path=None, **options):
        quiet = ("logger", "enable_checkpointing", "enable_progress_bar")
        quiet = dict.fromkeys((*quiet, "enable_model_summary"), False)
        trainer = lightning.Trainer(
            accelerator="cpu", callbacks=[GQCallback()], **quiet, **options
        )
        trainer.fit(module, ckpt_path=path)
        return trainer

    fit(Net({}), max_epochs=2).save_checkpoint(tmp_path / "a.ckpt")
    assert not [r for r in caplog.records if "GQ:" in r.getMessage()]
    fit(Net(gq_conf), tmp_path / "a.ckpt", **options)
    said = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    said = [message for message in said if message.startswith("GQ:")]
    assert len(said) == len(words)
    assert all(word in message for word, message in zip(words, said)), said
