"""Where the annealing and the training end at different steps, the log says so."""

import logging

import pytest
from torch import nn

import espnet_gq
from espnet_gq.nn.length import (
    compare_lengths,
    follow_configuration,
    say_if_unfinished,
)
from espnet_gq.quantizer import Quantizer


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
        ({"total": 100, "step": 40}, 200, 0, "step 100, as planned when it began, an"),
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
        "continues over 200 (gq_conf.annealing.steps); at step 100 the temperature "
        in (caplog.text)
    )
    assert "goes from 50 to 12.2" in caplog.text
    caplog.clear()
    follow_configuration(found)
    follow_configuration(quantizers(total=100))
    assert not caplog.records
