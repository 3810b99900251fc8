"""Weights that another mechanism computes: weight norm, parametrizations, pruning."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import espnet_gq
from espnet_gq import GQConfigError
from espnet_gq.nn.prepare import quantized_weights, weights_of
from espnet_gq.packing import load_packed


def old_weight_norm(layer, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(layer, name)


def pruned(layer, name):
    prune.l1_unstructured(layer, name, 0.3)
    return layer


WAYS = {
    "weight_norm": (old_weight_norm, "{}_v"),
    "parametrized weight_norm": (
        parametrizations.weight_norm,
        "parametrizations.{}.original1",
    ),
    "spectral_norm": (nn.utils.spectral_norm, "{}_orig"),
    "parametrized spectral_norm": (
        parametrizations.spectral_norm,
        "parametrizations.{}.original",
    ),
    "pruning": (pruned, "{}_orig"),
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
    return nn.Sequential(WAYS[way][0](make(), name), nn.Linear(8, 8))


def source(kind, way):
    """Return the name of what the weight is computed from, inside the layer."""
    return WAYS[way][1].format(LAYERS[kind][1])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", LAYERS)
def test_what_a_weight_is_computed_from_is_quantized(kind, way):
    module, x = net(kind, way), inputs(kind)
    espnet_gq.prepare(module, {"bits": 2})
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        output(module, x).square().sum().backward()
        optimizer.step()
    module.eval()
    expected = output(module, x)
    hardened = espnet_gq.harden(module)
    assert torch.equal(output(hardened, x), expected)
    values = hardened.get_parameter(f"0.{source(kind, way)}")
    assert all(len(row.unique()) <= 4 for row in values)
    with torch.no_grad():
        found = output(load_packed(net(kind, way), espnet_gq.pack(module)).eval(), x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", LAYERS)
def test_rules_know_the_weight_and_what_it_is_computed_from(kind, way):
    name = LAYERS[kind][1]
    for pattern in ("0", f"0.{name}", f"0.{source(kind, way)}", f"*.{name}"):
        module = net(kind, way)
        rules = [{"pattern": "1", "bits": 6}, {"pattern": pattern, "bits": 7}]
        espnet_gq.prepare(module, {"bits": 3, "rules": rules})
        bits = {n: q.bits for n, _, q in quantized_weights(module)}
        assert bits[f"0.{source(kind, way)}"] == 7
        others = {n: b for n, b in bits.items() if not n.endswith(source(kind, way))}
        rest = 7 if pattern == "0" else 3
        expected = {"weight_ih_l0": rest, "weight_ih": rest, "weight": 6}
        assert all(expected[n.partition(".")[2]] == b for n, b in others.items())


@pytest.mark.parametrize("way", WAYS)
def test_gates_are_those_of_the_weight(way):
    module = net("lstm", way)
    espnet_gq.prepare(module, {"bits": 4, "granularity": "gate"})
    found = {(w.layer, w.attribute): w.gates for w in weights_of(module)}
    layer, _, attribute = f"0.{source('lstm', way)}".rpartition(".")
    expected = {(layer, attribute): 4, ("0", "weight_ih_l0"): 4, ("1", "weight"): 1}
    assert found == expected
    scales = {n: q.log_scale.numel() for n, _, q in quantized_weights(module)}
    assert scales[f"0.{source('lstm', way)}"] == 4


@pytest.mark.parametrize("way", WAYS)
def test_a_hardened_model_can_be_folded(way):
    """The re-parametrization can be removed, as from any float model."""
    module, x = net("conv1d", way), inputs("conv1d")
    hardened = espnet_gq.harden(espnet_gq.prepare(module, {"bits": 4}).eval())
    expected = output(hardened, x)
    if "parametrized" in way:
        parametrize.remove_parametrizations(hardened[0], "weight")
    elif way == "pruning":
        prune.remove(hardened[0], "weight")
    elif way == "weight_norm":
        nn.utils.remove_weight_norm(hardened[0])
    else:
        nn.utils.remove_spectral_norm(hardened[0])
    assert set(dict(hardened[0].named_parameters())) == {"weight", "bias"}
    torch.testing.assert_close(output(hardened, x), expected, rtol=1e-4, atol=1e-4)


class Symmetric(nn.Module):
    """A parametrization of a user's."""

    def forward(self, x):
        return x.triu() + x.triu(1).T

    def right_inverse(self, x):
        return x.triu()


class Doubled(nn.Module):
    def forward(self, x):
        return 2.0 * x


def test_several_parametrizations_of_a_weight():
    def make():
        torch.manual_seed(0)
        layer = nn.Linear(8, 8)
        parametrize.register_parametrization(layer, "weight", Symmetric())
        parametrize.register_parametrization(layer, "weight", Doubled())
        return layer

    layer = make()
    module = espnet_gq.prepare(nn.Sequential(layer), {"bits": 3})
    chain = layer.parametrizations.weight
    assert len(chain) == 2 and [type(m) for m in chain] == [Symmetric, Doubled]
    assert [type(m) for m in reversed(chain)] == [Doubled, Symmetric]
    x = torch.randn(3, 8)
    module(x).sum().backward()
    expected = module.eval()(x)
    assert torch.equal(espnet_gq.harden(module)(x), expected)
    packed = load_packed(nn.Sequential(make()), espnet_gq.pack(module))
    torch.testing.assert_close(packed(x), expected, rtol=1e-5, atol=1e-5)
    assert len(packed[0].parametrizations.weight) == 2


def test_an_assignment_reaches_the_original():
    layer = nn.Linear(8, 8)
    parametrize.register_parametrization(layer, "weight", Symmetric())
    espnet_gq.prepare(nn.Sequential(layer), {"bits": 8})
    layer.weight = torch.eye(8)
    original = layer.parametrizations.weight._parameters["original"]
    assert torch.equal(original, torch.eye(8))


def test_orthogonal_weights_stay_float():
    def make():
        return nn.Sequential(
            parametrizations.orthogonal(nn.Linear(8, 8)), nn.Linear(8, 8)
        )

    module = espnet_gq.prepare(make(), {"bits": 3})
    assert set(espnet_gq.summarize(module).quantized) == {"1.weight"}
    with pytest.raises(GQConfigError, match="nothing can be quantized; .*orthogonal"):
        espnet_gq.prepare(make()[:1], {"bits": 3})


def test_the_length_of_weight_norm_is_a_vector():
    """g has as many dimensions as v."""
    module = espnet_gq.prepare(net("conv1d", "weight_norm"), {"bits": 3})
    assert module[0].weight_g.dim() == 3
    left = {p.name: p.reason for p in espnet_gq.summarize(module).left}
    assert "vector" in left["0.weight_g"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", LAYERS)
def test_after_preparation_it_is_one_sentence(kind, way):
    make, name = LAYERS[kind]
    module = espnet_gq.prepare(nn.Sequential(make()), {"bits": 3})
    uses = (
        lambda: WAYS[way][0](module[0], name),
        lambda: output(module, inputs(kind)),
        lambda: espnet_gq.harden(module),
        lambda: espnet_gq.pack(module),
    )
    with pytest.raises((RuntimeError, ValueError, TypeError)) as error:
        for use in uses:
            use()
    assert str(error.value).strip()
