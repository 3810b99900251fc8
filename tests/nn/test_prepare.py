"""Quantized layers and the verbs on a whole module."""

import pytest
import torch
from torch import nn

import espnet_gq
from espnet_gq.nn.layers import QuantizedLinear
from espnet_gq.nn.prepare import quantized_layers, quantized_weights
from espnet_gq.nn.training import progress


class Net(nn.Module):
    """One layer of every kind, with the odd options that float layers have."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 12, padding_idx=0)
        self.conv1 = nn.Conv1d(12, 12, 3, padding="same", groups=12)
        self.conv2 = nn.Conv2d(1, 4, 3, stride=2, padding_mode="reflect", padding=1)
        self.norm = nn.LayerNorm(24)
        self.out = nn.Linear(24, 5, bias=False)

    def forward(self, x):
        x = self.embed(x).transpose(1, 2)
        x = self.conv1(x).transpose(1, 2)
        x = self.conv2(x[:, None]).transpose(1, 2).flatten(2)
        return self.out(self.norm(x))


def batch():
    return torch.randint(0, 11, (3, 10), generator=torch.Generator().manual_seed(0))


def test_float_names_are_kept():
    float_keys = set(Net().state_dict())
    net = espnet_gq.prepare(Net(), {"bits": 5})
    own = {k for k in net.state_dict() if "_quantizer." in k}
    assert set(net.state_dict()) - own == float_keys
    assert {layer.float_class for _, layer in quantized_layers(net)} == {
        *(nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Linear)
    }


def test_at_eight_bits_little_changes_and_at_one_bit_much():
    torch.manual_seed(0)
    net = Net().eval()
    exact = net(batch())

    def error(bits):
        torch.manual_seed(0)
        other = espnet_gq.prepare(Net(), {"bits": bits}).eval()
        return ((other(batch()) - exact).norm() / exact.norm()).item()

    errors = [error(bits) for bits in (8, 4, 1)]
    assert errors[0] < 0.03 < errors[1] < errors[2]


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("seed", range(3))
def test_prepared_evaluated_and_hardened_agree_to_the_bit(bits, seed):
    torch.manual_seed(seed)
    net = espnet_gq.prepare(Net(), {"bits": bits})
    net(batch()).square().sum().backward()
    net.eval()
    hardened = espnet_gq.harden(net)
    assert torch.equal(net(batch()), hardened(batch()))
    assert not list(quantized_layers(hardened))
    # A hardened state dict is a float one.
    plain = Net().eval()
    plain.load_state_dict(hardened.state_dict())
    assert torch.equal(plain(batch()), net(batch()))
    # The prepared module is left as it was.
    assert list(quantized_layers(net))


def test_a_float_state_dict_loads_and_the_codebook_is_fitted_to_it():
    source = Net()
    net = espnet_gq.prepare(Net(), {"bits": 4})
    missing, unexpected = net.load_state_dict(source.state_dict(), strict=False)
    assert not unexpected and all("_quantizer." in k for k in missing)
    net(batch())
    for name, weight, quantizer in quantized_weights(net):
        assert torch.equal(weight, source.state_dict()[name])
        fresh = espnet_gq.GeneralQuantizer(4, weight.shape[0])
        fresh.fit(weight)
        assert torch.equal(fresh.log_scale, quantizer.log_scale)


def test_every_weight_and_quantizer_gets_a_gradient():
    net = espnet_gq.prepare(Net(), {"bits": 5})
    net(batch()).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_rules_choose_layers():
    net = espnet_gq.prepare(
        Net(),
        {
            "bits": 5,
            "rules": [
                {"pattern": "conv*", "bits": 8},
                {"pattern": "out", "float": True},
            ],
        },
    )
    bits = {name: q.bits for name, _, q in quantized_weights(net)}
    assert bits == {"embed.weight": 5, "conv1.weight": 8, "conv2.weight": 8}


def test_a_pattern_that_matches_nothing_is_an_error():
    with pytest.raises(espnet_gq.GQConfigError, match="'encoders.*' matches no layer"):
        espnet_gq.prepare(Net(), {"rules": [{"pattern": "encoders.*", "bits": 4}]})


def test_a_bare_layer_can_be_prepared_and_hardened():
    layer = espnet_gq.prepare(nn.Linear(6, 4), {"bits": 3})
    assert isinstance(layer, QuantizedLinear)
    x = torch.randn(2, 6)
    assert torch.equal(layer.eval()(x), espnet_gq.harden(layer)(x))


def test_training_reduces_the_loss_and_closes_the_gap():
    torch.manual_seed(0)
    net = espnet_gq.prepare(
        nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4)),
        {"bits": 4, "annealing": {"steps": 150}},
    )
    x, y = torch.randn(256, 16), torch.randint(0, 4, (256,))
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    losses, gaps = [], []
    for _ in range(150):
        loss = nn.functional.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        espnet_gq.advance(net)
        losses.append(float(loss))
        gaps.append(progress(net).soft_hard_gap)
    hard = float(nn.functional.cross_entropy(net.eval()(x), y))
    assert hard < 0.7 * losses[0]
    assert gaps[-1] < 0.5 * gaps[0]
    assert progress(net).effective_bits == 4


def test_same_result_without_the_native_library(monkeypatch):
    from espnet_gq.native import library

    def run():
        torch.manual_seed(0)
        net = espnet_gq.prepare(Net(), {"bits": 5})
        out = net(batch())
        out.square().sum().backward()
        return out, [p.grad for p in net.parameters()]

    with_library = run()
    monkeypatch.setattr(library, "loaded", lambda: None)
    without = run()
    torch.testing.assert_close(with_library[0], without[0], rtol=1e-4, atol=1e-5)
    for a, b in zip(with_library[1], without[1]):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
