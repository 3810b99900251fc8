"""ESPnet's trainer: a training that is resumed with another length, and penalties."""

import logging
import re
import shutil
from argparse import Namespace

import pytest
import torch
from forked import forked
from tiny_task import Task
from torch import nn
from untrained import task_class

import espnet_gq
from espnet_gq.espnet.training.trainer import GQTrainer
from espnet_gq.nn import GQConfigError
from espnet_gq.packing import load_state_dict, quantized_names

BATCHES = 2
"""Optimizer steps of an epoch."""
EPOCHS = 2


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
    assert "step 4, as planned when it began, and the training now at step 8: " in (
        said
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
    assert "began over 4 optimizer steps and continues over 8" in said
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
    assert "step 20, as planned when it began, and the training at step 6" in (first)
    assert "has ended at optimizer step 6 of 20 of its annealing" in last
    assert read(task.path / "smaller") == {(6, 20)}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"use_amp": True}, "use_amp is True .* allowed: float32 or bfloat16"),
        ({"accum_grad": 2}, "accum_grad 2: method lloyd_max .* allowed: 1 batch"),
    ],
    ids=str,
)
def test_a_method_is_told_how_gradients_are_made(changes, words):
    options = Namespace(
        **{"use_amp": False, "accum_grad": 1, "resume": False, **changes},
        use_matplotlib=False,
    )
    model = espnet_gq.prepare(nn.Linear(4, 4), {"method": "lloyd_max"})
    with pytest.raises(GQConfigError, match=words):
        GQTrainer.run(model, [], Namespace(**vars(options), output_dir="none"))
