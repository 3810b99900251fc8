"""Quantized LSTM and GRU against their equations, and what they compute with."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import espnet_gq
from espnet_gq.nn.layers import quantized_once
from espnet_gq.nn.prepare import quantizable, quantized_weights
from espnet_gq.packing import pack_state_dict, unpack_state_dict

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA"),
    ),
]
KINDS = {
    "lstm": (nn.LSTM, {}),
    "lstm_two_layers": (nn.LSTM, {"num_layers": 2}),
    "lstm_bidirectional": (nn.LSTM, {"num_layers": 2, "bidirectional": True}),
    "lstm_projected": (
        nn.LSTM,
        {"num_layers": 2, "bidirectional": True, "proj_size": 4},
    ),
    "lstm_no_bias": (nn.LSTM, {"bias": False}),
    "gru": (nn.GRU, {"num_layers": 2}),
    "gru_bidirectional": (nn.GRU, {"num_layers": 2, "bidirectional": True}),
}
MIXED = {"bits": 5, "rules": [{"pattern": "*weight_hh_l*", "bits": 1}]}


def close(a, b):
    # PyTorch's recurrent layers round differently for weights that require gradients.
    return torch.allclose(a, b, rtol=1e-5, atol=1e-6)


def build(kind, config=None, dtype=torch.float32, **options):
    cls, own = KINDS[kind]
    torch.manual_seed(0)
    rnn = cls(5, 6, batch_first=True, **own, **options).to(dtype)
    return espnet_gq.prepare(rnn, config or MIXED).train()


def frames(dtype=torch.float32, device="cpu"):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, 7, 5, generator=generator, dtype=dtype).to(device)


def lstm_cell(x, h, c, w_ih, w_hh, b_ih, b_hh, w_hr):
    i, f, g, o = (x @ w_ih.T + b_ih + h @ w_hh.T + b_hh).chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    return h if w_hr is None else h @ w_hr.T, c


def gru_cell(x, h, c, w_ih, w_hh, b_ih, b_hh, w_hr):
    ri, zi, ni = (x @ w_ih.T + b_ih).chunk(3, -1)
    rh, zh, nh = (h @ w_hh.T + b_hh).chunk(3, -1)
    r, z = (ri + rh).sigmoid(), (zi + zh).sigmoid()
    return (1 - z) * (ni + r * nh).tanh() + z * h, c


def reference(rnn, x):
    """Run layer by layer, direction by direction, step by step."""
    lstm = isinstance(rnn, nn.LSTM)
    cell = lstm_cell if lstm else gru_cell
    for layer in range(rnn.num_layers):
        outputs = []
        for suffix in ("", "_reverse")[: 1 + rnn.bidirectional]:

            def weight(name):
                name = f"{name}_l{layer}{suffix}"
                return getattr(rnn, f"{name}_quantizer")(getattr(rnn, name))

            def bias(name):
                return getattr(rnn, f"{name}_l{layer}{suffix}", x.new_zeros(1))

            w_hr = weight("weight_hr") if getattr(rnn, "proj_size", 0) else None
            weights = weight("weight_ih"), weight("weight_hh")
            arguments = (*weights, bias("bias_ih"), bias("bias_hh"), w_hr)
            h = x.new_zeros(len(x), rnn.proj_size if w_hr is not None else 6)
            c = x.new_zeros(len(x), 6)
            steps = range(x.shape[1])
            out = [None] * len(steps)
            for t in reversed(steps) if suffix else steps:
                h, c = cell(x[:, t], h, c, *arguments)
                out[t] = h
            outputs.append(torch.stack(out, 1))
        x = torch.cat(outputs, -1)
    return x


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("config", [MIXED, {"bits": 4, "granularity": "gate"}])
def test_values_and_gradients_are_those_of_the_cells(kind, config):
    rnn = build(kind, config, torch.float64)
    x = frames(torch.float64)
    grad = torch.randn_like(rnn(x)[0])
    results = []
    for run in (lambda: rnn(x)[0], lambda: reference(rnn, x)):
        rnn.zero_grad()
        out = run()
        out.backward(grad)
        grads = {name: p.grad.clone() for name, p in rnn.named_parameters()}
        results.append((out, grads))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-9, atol=1e-12)
    assert all(g.abs().sum() > 0 for n, g in results[0][1].items() if "log_mu" not in n)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_every_matrix_in_use_is_the_quantized_one(kind, training, device):
    rnn = build(kind).to(device)
    x = frames(device=device)
    rnn(x)
    rnn.train(training)
    rnn.flatten_parameters()
    out = rnn(x)[0]
    names = [name for name, _, _ in quantized_weights(rnn)]
    directions = rnn.num_layers * (1 + rnn.bidirectional)
    assert len(names) == directions * (3 if getattr(rnn, "proj_size", 0) else 2)
    # The float layer with the quantizers' outputs as its weights gives the same.
    cls, own = KINDS[kind]
    plain = cls(5, 6, batch_first=True, **own).to(device).train(training)
    state = dict(rnn.named_parameters())
    for name, weight, quantizer in quantized_weights(rnn):
        state[name] = quantizer(weight)
    plain.load_state_dict({k: v for k, v in state.items() if "quantizer" not in k})
    assert close(plain(x)[0], out)
    # What each quantizer returns matters, and nothing else of the matrix does.
    for name, weight, quantizer in quantized_weights(rnn):
        with torch.no_grad():
            kept = weight.clone()
            fixed = quantizer(weight).clone()
            hook = quantizer.register_forward_hook(lambda *_, value=fixed: value)
            weight.copy_(torch.randn_like(weight))
            assert close(rnn(x)[0], out), f"{name} is used itself"
            hook.remove()
            hook = quantizer.register_forward_hook(lambda _, __, out: 0.5 * out)
            weight.copy_(kept)
            assert not torch.allclose(rnn(x)[0], out, atol=1e-4), f"{name} is unused"
            hook.remove()


@pytest.mark.parametrize("kind", KINDS)
def test_float_in_hardened_and_packed_out(kind):
    cls, own = KINDS[kind]
    rnn = build(kind)
    keys = set(cls(5, 6, **own).state_dict())
    assert keys == {k for k in rnn.state_dict() if "_quantizer." not in k}
    rnn(frames())
    rnn.eval()
    expected = rnn(frames())[0]
    hardened = espnet_gq.harden(rnn)
    for name, weight in zip(hardened._flat_weights_names, hardened._flat_weights):
        assert weight is getattr(hardened, name)
    assert close(hardened(frames())[0], expected)
    plain = cls(5, 6, batch_first=True, **own).eval()
    state = unpack_state_dict(pack_state_dict(rnn.state_dict()))
    plain.load_state_dict({k: v for k, v in state.items() if k in keys})
    assert close(plain(frames())[0], expected)
    again = build(kind).eval()
    again.load_state_dict(state)
    assert torch.equal(again(frames())[0], expected)


def test_packed_sequences_states_and_dropout():
    rnn = build("lstm_two_layers", dropout=0.5)
    lengths = torch.tensor([7, 5, 2])
    packed = pack_padded_sequence(frames(), lengths, batch_first=True)
    torch.manual_seed(0)
    first, (h, c) = rnn(packed)
    torch.manual_seed(0)
    second, _ = rnn(packed)
    assert torch.equal(first.data, second.data)
    assert not torch.equal(rnn(packed)[0].data, first.data)
    rnn.eval()
    whole, _ = pad_packed_sequence(rnn(packed)[0], batch_first=True)
    start, state = rnn(frames()[:1, :3])
    rest, _ = rnn(frames()[:1, 3:], state)
    torch.testing.assert_close(torch.cat([start, rest], 1), whole[:1])


@pytest.mark.parametrize("cls", [nn.LSTMCell, nn.GRUCell])
def test_cells(cls):
    torch.manual_seed(0)
    cell = espnet_gq.prepare(cls(5, 6), {"bits": 3}).double().train()
    x = frames(torch.float64)[:, 0]
    gates = 4 if cls is nn.LSTMCell else 3

    def expected():
        w_ih, w_hh = (
            getattr(cell, f"{n}_quantizer")(getattr(cell, n))
            for n in ("weight_ih", "weight_hh")
        )
        zero = x.new_zeros(3, 6)
        step = lstm_cell if gates == 4 else gru_cell
        return step(x, zero, zero, w_ih, w_hh, cell.bias_ih, cell.bias_hh, None)[0]

    def got():
        return cell(x)[0] if gates == 4 else cell(x)

    results = []
    for run in (got, expected):
        cell.zero_grad()
        out = run()
        out.square().sum().backward()
        results.append((out, [p.grad.clone() for p in cell.parameters()]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-12)
    cell.eval()
    torch.testing.assert_close(espnet_gq.harden(cell)(x), cell(x))
    assert isinstance(espnet_gq.harden(cell).weight_ih, nn.Parameter)


def test_quantized_once_quantizes_once_and_changes_nothing():
    torch.manual_seed(0)
    cell = espnet_gq.prepare(nn.GRUCell(5, 5), {"bits": 5}).train()
    calls = []
    cell.weight_hh_quantizer.register_forward_hook(lambda *_: calls.append(1))

    def run():
        cell.zero_grad()
        state = frames()[:, 0]
        for _ in range(4):
            state = cell(state, state)
        state.sum().backward()
        return state, [p.grad.clone() for p in cell.parameters()]

    expected = run()
    assert len(calls) == 4
    for _ in range(2):  # a second block starts afresh
        with quantized_once(cell):
            result = run()
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)
    assert len(calls) == 6


def test_rules_reach_single_matrices():
    config = {
        "bits": 5,
        "rules": [
            {"pattern": "*.weight_hh_l0", "bits": 1},
            {"pattern": "0.weight_ih_l1", "float": True},
            {"pattern": "1", "granularity": "gate"},
        ],
    }
    net = nn.Sequential(nn.LSTM(5, 6, 2), nn.GRU(5, 6), nn.LSTM(5, 6))
    names = quantizable(net)
    assert names["0"] == [
        "weight_ih_l0",
        "weight_hh_l0",
        "weight_ih_l1",
        "weight_hh_l1",
    ]
    espnet_gq.prepare(net, config)
    found = {
        name: (q.bits, q.log_scale.numel()) for name, _, q in quantized_weights(net)
    }
    assert found == {
        "0.weight_ih_l0": (5, 1),
        "0.weight_hh_l0": (1, 24),
        "0.weight_hh_l1": (5, 1),
        "1.weight_ih_l0": (5, 3),
        "1.weight_hh_l0": (1, 18),
        "2.weight_ih_l0": (5, 1),
        "2.weight_hh_l0": (1, 24),
    }
    net = nn.Sequential(nn.LSTM(5, 6))
    with pytest.raises(espnet_gq.GQConfigError, match="0.weight_ih_l0, 0.weight_hh_l0"):
        espnet_gq.prepare(net, {"rules": [{"pattern": "*.weight_hr*", "bits": 2}]})


def test_gates_have_scales_of_their_own():
    torch.manual_seed(0)
    rnn = nn.LSTM(64, 64)
    with torch.no_grad():
        rnn.weight_ih_l0[:64] *= 10.0
    rnn = espnet_gq.prepare(rnn, {"bits": 4, "granularity": "gate"})
    rnn(torch.zeros(1, 1, 64))
    s = rnn.weight_ih_l0_quantizer.log_scale.exp()
    assert s.shape == (4,) and s[0] > 5 * s[1:].max()
    rnn.eval()
    values = [
        part.unique().numel() for part in rnn.weight_in_use("weight_ih_l0").chunk(4)
    ]
    assert max(values) <= 16
    figures = rnn.weight_ih_l0_quantizer.statistics(rnn.weight_ih_l0)
    assert 0 <= figures["settled"] <= figures["numel"]


def test_copies_moves_and_failed_calls_leave_a_layer_that_works():
    rnn = build("lstm_two_layers")
    rnn(frames())
    rnn.eval()
    expected = rnn(frames())[0]
    with pytest.raises(Exception, match="input"):
        rnn(torch.zeros(3, 7, 9))
    assert torch.equal(rnn(frames())[0], expected)
    other = copy.deepcopy(rnn)
    with torch.no_grad():
        for parameter in rnn.parameters():
            parameter.mul_(2.0)
    assert torch.equal(other(frames())[0], expected)
    assert close(other.double()(frames().double())[0].float(), expected)
