"""Gradients and weights that are not finite are named while they are known."""

import logging
import math

import pytest
import torch
from torch import nn

from espnet_gq.espnet.torch_proxy import torch as espnet_torch
from espnet_gq.espnet.training.gradients import named_when_not_finite
from espnet_gq.nn.finite import NotFiniteError


@pytest.fixture
def net():
    torch.manual_seed(0)
    module = nn.Sequential(*(nn.Linear(3, 3) for _ in range(7)))
    module(torch.randn(2, 3)).square().sum().backward()
    return module


def clip(module):
    parameters = module.parameters()
    return espnet_torch.nn.utils.clip_grad_norm_(
        parameters, max_norm=0.1, norm_type=2.0
    )


def told(caplog):
    return [record.getMessage() for record in caplog.records]


def test_finite_gradients_are_clipped_as_ever(net, caplog):
    grads = [p.grad.clone() for p in net.parameters()]
    norm = clip(net)
    expected = [p.grad.clone() for p in net.parameters()]
    for p, grad in zip(net.parameters(), grads):
        p.grad.copy_(grad)
    with named_when_not_finite(net):
        assert torch.equal(clip(net), norm)
    assert all(torch.equal(p.grad, e) for p, e in zip(net.parameters(), expected))
    assert not told(caplog)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_they_are_named_once(net, caplog, value):
    net[1].weight.grad[0, 0] = value
    net[2].bias.grad[0] = value
    with named_when_not_finite(net), caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert not clip(net).isfinite()  # ESPnet skips the step
    (message,) = told(caplog)
    assert message.endswith("NaN or infinite gradients in 2.bias, 1.weight (of 14)")


class Infinite(nn.Module):
    def forward(self, x):
        return x * math.inf


@pytest.mark.parametrize("wrapped", [False, True])
def test_where_the_forward_pass_goes_wrong(net, caplog, wrapped):
    net.insert(3, nn.Sequential(Infinite()))
    with named_when_not_finite(nn.DataParallel(net) if wrapped else net):
        for _ in range(3):
            net.zero_grad()
            net(torch.ones(1, 3)).square().sum().backward()
            clip(net)
    message, where = told(caplog)
    assert message.endswith("those of all 14 tensors, as where the loss is not finite")
    assert where == "The output of 3.0 (Infinite) is NaN or infinite, its input is not"
    assert not any(module._forward_hooks for module in net.modules())


def test_a_norm_that_overflows(net, caplog):
    for p in net.parameters():
        p.grad.fill_(1e30)
    with named_when_not_finite(net):
        clip(net)
    assert told(caplog)[0].endswith("finite, but their squares overflow")


def test_weights_that_are_not_finite_end_the_training(net):
    with torch.no_grad():
        net[3].weight[0, 0] = math.nan
    net(torch.ones(1, 3)).sum().backward()
    with pytest.raises(NotFiniteError, match=r"values in 3\.weight; allowed"):
        with named_when_not_finite(net):
            clip(net)
