"""The options of nn.Embedding."""

import logging

import pytest
import torch
from torch import nn

import espnet_gq

ROWS = torch.tensor([[0, 3, 3], [7, 9, 2]])


def embedding(bits=4, **options):
    torch.manual_seed(0)
    layer = nn.Embedding(10, 6, **options)
    with torch.no_grad():
        layer.weight.mul_(3.0)
        if options.get("padding_idx") is not None:
            layer.weight[options["padding_idx"]] = 0.0
    return espnet_gq.prepare(layer, {"bits": bits, "annealing": {"steps": 20}})


OPTIONS = [
    {"max_norm": 1.0},
    {"max_norm": 0.5, "norm_type": 1.0},
    {"max_norm": 2.0, "norm_type": float("inf"), "padding_idx": 3},
    {"scale_grad_by_freq": True},
    {"sparse": True},
    {"padding_idx": 3},
    {"padding_idx": -1, "max_norm": 1.5, "sparse": True},
]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_it_trains_and_all_forms_agree(options, bits):
    layer = embedding(bits, **options)
    optimizer = torch.optim.Adam(layer.parameters(), 1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        out = layer(ROWS)
        out.square().sum().backward()
        optimizer.step()
        espnet_gq.advance(layer)
    layer.eval()
    expected = layer(ROWS)
    hardened = espnet_gq.harden(layer)
    torch.testing.assert_close(hardened(ROWS), expected, rtol=1e-5, atol=1e-6)
    if "max_norm" in options:
        norm = expected.norm(options.get("norm_type", 2.0), -1)
        assert norm.max() <= options["max_norm"] * 1.001


def test_max_norm_limits_the_rows_that_are_trained_too():
    layer = embedding(8, max_norm=1.0)
    before = layer.weight.data.clone()
    layer(ROWS)
    norms, used = layer.weight.data.norm(dim=1), ROWS.unique()
    assert (norms[used] <= 1.001).all()
    unused = [row for row in range(10) if row not in used]
    assert torch.equal(layer.weight.data[unused], before[unused])


def test_gradients_are_those_of_the_float_layer():
    for options in ({"scale_grad_by_freq": True}, {"padding_idx": 3}, {"sparse": True}):
        layer = embedding(8, **options).eval()
        hardened = espnet_gq.harden(layer)
        for module in (layer, hardened):
            module(ROWS).square().sum().backward()
        found = hardened.weight.grad
        found = found.to_dense() if found.is_sparse else found
        torch.testing.assert_close(layer.weight.grad, found)


def test_sparse_gradients_become_dense_and_it_is_said(caplog):
    with caplog.at_level(logging.WARNING):
        layer = embedding(sparse=True)
    assert "sparse gradients become dense ones" in caplog.text
    layer(ROWS).sum().backward()
    assert layer.weight.grad.layout == torch.strided
