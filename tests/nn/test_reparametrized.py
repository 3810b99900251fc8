"""Weights that another mechanism computes: weight norm, parametrizations, pruning."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import espnet_gq
from espnet_gq import GQConfigError
from espnet_gq.packing import load_packed, unpack_state_dict


def old_weight_norm(layer, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(layer, name)


def pruned(layer, name):
    prune.l1_unstructured(layer, name, 0.3)
    return layer


WAYS = {
    "weight_norm": old_weight_norm,
    "parametrized weight_norm": parametrizations.weight_norm,
    "orthogonal": parametrizations.orthogonal,
    "spectral_norm": parametrizations.spectral_norm,
    "old spectral_norm": nn.utils.spectral_norm,
    "pruning": pruned,
}
LAYERS = {
    "linear": (lambda: nn.Linear(8, 8), "weight"),
    "conv1d": (lambda: nn.Conv1d(8, 8, 1), "weight"),
    "embedding": (lambda: nn.Embedding(8, 8), "weight"),
    "lstm": (lambda: nn.LSTM(8, 8), "weight_hh_l0"),
    "gru_cell": (lambda: nn.GRUCell(8, 8), "weight_hh"),
}


def inputs(kind):
    x = torch.randn(8, 8, generator=torch.Generator().manual_seed(1))
    return torch.arange(8) if kind == "embedding" else x


def output(module, x):
    for layer in module:
        x = layer(x)
        x = x[0] if isinstance(x, tuple) else x
    return x


def net(kind, way):
    torch.manual_seed(0)
    make, name = LAYERS[kind]
    return nn.Sequential(WAYS[way](make(), name), nn.Linear(8, 8))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", LAYERS)
def test_such_layers_stay_float_and_are_named(kind, way):
    module, x = net(kind, way), inputs(kind)
    espnet_gq.prepare(module, {"bits": 3})
    output(module, x).sum().backward()
    assert set(espnet_gq.summarize(module).quantized) == {"1.weight"}
    reasons = {p.reason for p in espnet_gq.summarize(module).left if p.numel > 30}
    assert any("re-parametrized" in r or "extends" in r for r in reasons), reasons
    module.eval()
    with torch.no_grad():
        expected = output(module, x)
        assert torch.equal(output(espnet_gq.harden(module), x), expected)
        packed = espnet_gq.pack(module)
        found = output(load_packed(net(kind, way), packed).eval(), x)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    net(kind, way).load_state_dict(
        {k: v for k, v in unpack_state_dict(packed).items() if "_quantizer." not in k}
    )


@pytest.mark.parametrize("way", WAYS)
def test_alone_they_are_refused(way):
    with pytest.raises(GQConfigError, match="nothing can be quantized"):
        espnet_gq.prepare(net("linear", way)[:1], {"bits": 3})


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", LAYERS)
def test_after_preparation_it_is_one_sentence(kind, way):
    make, name = LAYERS[kind]
    module = espnet_gq.prepare(nn.Sequential(make()), {"bits": 3})
    uses = (
        lambda: WAYS[way](module[0], name),
        lambda: output(module, inputs(kind)),
        lambda: espnet_gq.harden(module),
        lambda: espnet_gq.pack(module),
    )
    with pytest.raises((RuntimeError, ValueError, TypeError)) as error:
        for use in uses:
            use()
    assert str(error.value).strip()
