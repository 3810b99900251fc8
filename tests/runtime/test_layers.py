"""Packed layers give what the hardened float layers give."""

import copy

import pytest
import torch
from torch import nn

import espnet_gq
from espnet_gq.native import library
from espnet_gq.packing import load_packed
from espnet_gq.runtime import PackedWeight, set_mode, skeleton


class Wrapped(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer()

    def forward(self, *args):
        return self.layer(*args)


def packed_and_hardened(layer, **conf):
    torch.manual_seed(0)
    prepared = espnet_gq.prepare(Wrapped(layer), {"bits": 5, **conf}).eval()
    packed = espnet_gq.pack(prepared)
    with skeleton():
        empty = Wrapped(layer)
    assert all(p.device.type == "meta" for p in empty.parameters())
    return load_packed(empty, packed).eval(), espnet_gq.harden(prepared)


def flat(result):
    if torch.is_tensor(result):
        return [result]
    if hasattr(result, "data") and torch.is_tensor(result.data):
        return [result.data]
    return [t for part in result for t in flat(part)]


def compare(layer, *inputs, **conf):
    packed, hardened = packed_and_hardened(layer, **conf)
    assert any(isinstance(m, PackedWeight) for m in packed.modules())
    with torch.no_grad():
        for a, b in zip(flat(packed(*inputs)), flat(hardened(*inputs)), strict=True):
            assert a.shape == b.shape
            torch.testing.assert_close(a, b, rtol=1e-5, atol=3e-6)
        exact = flat(packed(*inputs))
        set_mode(packed, "int8")
        int8 = flat(packed(*inputs))
    difference = max(
        float((a - b).abs().max()) for a, b in zip(exact, int8) if a.numel()
    )
    assert difference < 0.1
    return packed, difference


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_linear(bits, granularity):
    conf = {"bits": bits, "granularity": granularity}
    _, difference = compare(lambda: nn.Linear(70, 33), torch.randn(2, 5, 70), **conf)
    assert difference > 0


@pytest.mark.parametrize(
    "layer, shape",
    [
        (lambda: nn.Conv1d(24, 40, 1), (2, 24, 9)),
        (lambda: nn.Conv1d(24, 40, 1, bias=False), (24, 9)),
        (lambda: nn.Conv1d(24, 24, 7, padding=3, groups=24), (2, 24, 9)),
        (lambda: nn.Conv1d(24, 40, 3, stride=2, dilation=2), (2, 24, 19)),
        (lambda: nn.Conv1d(24, 40, 1, stride=2), (2, 24, 9)),
        (lambda: nn.Conv2d(1, 16, 3, 2), (2, 1, 20, 30)),
        (lambda: nn.Conv2d(16, 24, (3, 5), padding=1), (2, 16, 20, 30)),
    ],
)
def test_convolutions(layer, shape):
    compare(layer, torch.randn(shape))


def test_embedding_is_exact_in_both_modes():
    ids = torch.tensor([[0, 5], [49, 5]])
    _, difference = compare(lambda: nn.Embedding(50, 37, padding_idx=0), ids)
    assert difference == 0


RECURRENT = [
    lambda: nn.LSTM(20, 33),
    lambda: nn.LSTM(20, 33, 2, batch_first=True, bias=False),
    lambda: nn.LSTM(20, 33, 2, bidirectional=True),
    lambda: nn.LSTM(20, 33, 2, bidirectional=True, proj_size=17, batch_first=True),
    lambda: nn.GRU(20, 33),
    lambda: nn.GRU(20, 33, 2, bidirectional=True, batch_first=True),
    lambda: nn.GRU(20, 33, 2, bias=False),
]


@pytest.mark.parametrize("layer", RECURRENT)
@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("granularity", ["tensor", "gate"])
def test_recurrent(layer, kernels, granularity, monkeypatch):
    if not kernels:
        monkeypatch.setattr(library, "loaded", lambda: None)
    compare(layer, torch.randn(7, 3, 20), granularity=granularity)
    compare(layer, torch.randn(7, 20), granularity=granularity)
    base = layer()
    stacked = base.num_layers * (2 if base.bidirectional else 1)
    batch = 7 if base.batch_first else 3
    h = torch.randn(stacked, batch, base.proj_size or 33)
    state = (h, torch.randn(stacked, batch, 33)) if base.mode == "LSTM" else h
    kept = copy.deepcopy(state)
    compare(layer, torch.randn(7, 3, 20), state, granularity=granularity)
    for a, b in zip(flat(state), flat(kept)):
        assert torch.equal(a, b)  # the caller's states are not written to
    for lengths in ([5, 7, 2], [7, 7, 1]):
        sequence = nn.utils.rnn.pack_padded_sequence(
            torch.randn(3, 7, 20), torch.tensor(lengths), True, enforce_sorted=False
        )
        compare(layer, sequence)
    if not base.batch_first:
        compare(layer, sequence, (h, state[1]) if base.mode == "LSTM" else h)


def test_a_recurrent_layer_in_chunks_is_the_whole():
    packed, _ = packed_and_hardened(lambda: nn.LSTM(20, 33, 2, batch_first=True))
    x, state, parts = torch.randn(1, 11, 20), None, []
    with torch.no_grad():
        whole, _ = packed(x)
        for chunk in x.split(3, 1):
            part, state = packed(chunk, state)
            parts.append(part)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-6)


def test_matrices_left_float():
    rules = [{"pattern": "*.weight_hh_l*", "float": True}]
    packed, _ = packed_and_hardened(lambda: nn.LSTM(20, 33, 2), rules=rules)
    assert isinstance(packed.layer.weight_hh_l1, nn.Parameter)
    assert isinstance(packed.layer.weight_ih_l1, PackedWeight)
    compare(lambda: nn.LSTM(20, 33, 2), torch.randn(7, 3, 20), rules=rules)
    compare(lambda: nn.GRU(20, 33, 2), torch.randn(7, 3, 20), rules=rules)


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell])
def test_cells(cell):
    state = torch.randn(3, 33)
    given = (state, torch.randn(3, 33)) if cell is nn.LSTMCell else state
    compare(lambda: cell(20, 33), torch.randn(3, 20), given)
    compare(lambda: cell(20, 33), torch.randn(3, 20))


def test_unknown_mode():
    with pytest.raises(ValueError, match="'fast'; allowed: exact, int8"):
        set_mode(nn.Linear(1, 1), "fast")
