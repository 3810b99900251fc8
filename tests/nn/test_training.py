"""The state of a training, whatever framework it runs in."""

import logging

import pytest
import torch
from torch import nn

import espnet_gq
from espnet_gq.nn import GQConfigError, training
from espnet_gq.nn.finite import NotFiniteError


def prepared(**conf):
    return espnet_gq.prepare(
        nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)),
        {"bits": 5, **conf},
    )


def test_a_second_training_begins_anew(caplog):
    net = prepared(annealing={"steps": 4})
    training.start(net)
    for _ in range(4):
        espnet_gq.advance(net)
    found = training.quantizers(net)
    assert len(found) == 2 and training.temperature(found) == pytest.approx(50)
    with torch.no_grad():
        net[0].weight.latent.mul_(3)
    before = found[0].centroids()
    with caplog.at_level(logging.INFO):
        training.start(net)
    assert training.temperature(found) == pytest.approx(3)
    # The fit is that of the first training: `fit_quantizers(again=True)` renews it.
    assert torch.equal(found[0].centroids(), before)
    training.fit_quantizers(net, again=True)
    assert not torch.allclose(found[0].centroids(), before)
    assert (
        "2 tensors with 48 parameters, 64.9% of 74 parameters, quantized to 5.00"
        in (caplog.text)
    )
    assert "; 17 values in buffers" in caplog.text


def test_a_warm_up_is_fitted_at_its_end():
    net = prepared(annealing={"steps": 4, "warmup_steps": 2})
    training.start(net)
    fitted = []
    for _ in range(3):
        fitted.append({q.fitted for q in training.quantizers(net)})
        espnet_gq.advance(net)
    assert fitted == [{False}, {False}, {True}]


def test_a_start_from_weights_that_are_not_finite_is_refused():
    net = prepared()
    with torch.no_grad():
        net[2].weight.latent[0, 0] = float("nan")
    with pytest.raises(NotFiniteError, match="in 2.weight; allowed"):
        training.start(net)


def test_steps_of_the_optimizer_are_counted_until_the_hook_is_removed():
    net = prepared(annealing={"steps": 4})
    training.start(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    handle = training.count_steps(net, optimizer)
    net(torch.randn(3, 4)).sum().backward()
    optimizer.step()
    handle.remove()
    optimizer.step()
    assert {q.step for q in training.quantizers(net)} == {1}


def test_figures_have_the_names_of_the_log():
    net = prepared(annealing={"steps": 4})
    training.start(net)
    figures = training.figures(net)
    names = ("temperature", "settled", "soft_hard_gap", "effective_bits")
    assert list(figures) == [f"gq_{name}" for name in names]
    assert figures["gq_temperature"] == pytest.approx(3)
    assert figures["gq_effective_bits"] == 5


@pytest.mark.parametrize(
    "scaled, batches, words",
    [
        (True, 1, "an option: method lloyd_max adds .* allowed: float32 or bfloat16"),
        (False, 4, "an option: method lloyd_max adds .* allowed: 1 batch per"),
        (False, 1, None),
    ],
)
def test_a_penalty_goes_with_plain_gradients_only(scaled, batches, words):
    training.check_gradients(prepared(), scaled, batches, "an option")
    net = prepared(method="lloyd_max")
    if words is None:
        training.check_gradients(net, scaled, batches, "an option")
        return
    with pytest.raises(GQConfigError, match=words):
        training.check_gradients(net, scaled, batches, "an option")
