"""Options that quantized layers cannot follow are refused before a training."""

from argparse import Namespace

import pytest
from espnet2.train.trainer import Trainer
from tiny_task import SECOND_TASK, Task
from untrained import task_class

from espnet_gq.espnet.training.options import UNSUPPORTED, main_worker, quantizes
from espnet_gq.espnet.training.trainer import GQTrainer
from espnet_gq.nn import GQConfigError


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return Task(tmp_path_factory.mktemp("options"), train=1, valid=1)


@pytest.mark.parametrize("asr_task", ["asr", "asr_transducer"])
@pytest.mark.parametrize("option", UNSUPPORTED)
def test_refused_before_anything_is_done(task, option, asr_task):
    changes = SECOND_TASK if asr_task == "asr_transducer" else {}
    config = task.config(f"{asr_task}.yaml", **changes)
    command = task.arguments(config, "refused", f"--{option}", "true")
    message = f"^{option} is true with quantized layers; allowed: false"
    with pytest.raises(GQConfigError, match=message):
        task_class(asr_task).main(cmd=command[5:])
    assert not (task.path / "refused").exists()


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"encoder": "gq_rnn", "decoder": "rnn"}, True),
        ({"encoder": "rnn", "decoder": None, "model": "GQ_espnet"}, True),
        ({"decoder": "rnn", "encoder_conf": {"gq_conf": {"bits": 2}}}, True),
        ({"decoder": "rnn", "encoder_conf": {"gq_conf": None}}, False),
        ({"encoder": "rnn", "model_conf": None}, False),
    ],
    ids=str,
)
def test_which_trainings_are_quantized(options, expected):
    assert quantizes(Namespace(**options)) == expected


def test_a_float_model_keeps_deepspeed():
    """ESPnet grants it to its own trainer only."""

    trained_by = []

    class FloatTask:
        trainer = GQTrainer

        @classmethod
        @main_worker
        def main_worker(cls, args):
            trained_by.append(cls.trainer)

    for use in (True, False):
        FloatTask.main_worker(Namespace(encoder="rnn", use_deepspeed=use))
    assert trained_by == [Trainer, GQTrainer]
