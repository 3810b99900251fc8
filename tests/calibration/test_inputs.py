"""The inputs of each weight: products with them are what the layer computes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from espnet_gq.calibration.inputs import (
    computes_as_known,
    groups_and_columns,
    inputs_of,
    is_multiplied,
    is_own,
    stages_of,
)


def output(layer, x, attribute="weight"):
    """The products of a weight with its inputs, (G, n, R)."""
    w = layer.get_parameter(attribute)
    groups, columns = groups_and_columns(layer, tuple(w.shape), attribute)
    inputs = inputs_of(layer, x if isinstance(x, tuple) else (x,), {})[attribute]
    assert inputs.shape[0] == groups and inputs.shape[2] == columns
    return inputs @ w.view(groups, -1, columns).transpose(1, 2)


@pytest.mark.parametrize(
    "layer, shape",
    [
        (nn.Conv1d(6, 4, 3, padding=1, bias=False), (2, 6, 11)),
        (nn.Conv1d(6, 6, 5, padding=2, groups=6, bias=False), (2, 6, 11)),
        (nn.Conv1d(6, 4, 3, stride=2, dilation=2, groups=2, bias=False), (2, 6, 11)),
        (nn.Conv1d(6, 4, 3, padding="same", padding_mode="reflect", bias=False),)
        + ((2, 6, 11),),
        (nn.Conv1d(6, 4, 3, bias=False), (6, 11)),
        (nn.Conv2d(1, 4, 3, stride=2, bias=False), (2, 1, 9, 11)),
        (nn.Conv2d(4, 6, (3, 1), padding=(1, 0), groups=2, bias=False), (2, 4, 5, 6)),
    ],
)
def test_convolutions(layer, shape):
    x = torch.randn(shape)
    expected = layer(x)
    if expected.dim() == x.dim() and x.dim() == len(layer.kernel_size) + 1:
        expected = expected[None]
    groups = layer.groups
    batch, channels = expected.shape[:2]
    expected = expected.view(batch, groups, channels // groups, -1)
    expected = expected.permute(1, 0, 3, 2).reshape(groups, -1, channels // groups)
    torch.testing.assert_close(output(layer, x), expected)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "layer",
    [
        nn.LSTM(5, 6, 2, batch_first=True, bidirectional=True),
        nn.LSTM(5, 6, batch_first=True, proj_size=3),
        nn.GRU(5, 6, 2, batch_first=True, bidirectional=True),
        nn.GRU(5, 6, bias=False, batch_first=True),
        nn.RNN(5, 6, 2, batch_first=True, bidirectional=True),
        nn.RNN(5, 6, batch_first=True, nonlinearity="relu"),
    ],
)
def test_recurrent_layers(layer, packed):
    """The last layer's hidden states are the outputs, one step later."""
    x = torch.randn(2, 7, 5)
    found = inputs_of(layer, (x,), {})
    outputs, _ = layer(x)
    size = layer.proj_size or layer.hidden_size
    last = f"weight_hh_l{layer.num_layers - 1}"
    hidden = found[last].view(2, 7, size)
    torch.testing.assert_close(hidden[:, 1:], outputs[:, :-1, :size])
    assert not hidden[:, 0].any()
    if layer.bidirectional:
        back = found[f"{last}_reverse"].view(2, 7, size).flip(1)
        torch.testing.assert_close(back[:, :-1], outputs[:, 1:, size:])
    if layer.proj_size:
        projected = output(layer, x, "weight_hr_l0").view(2, 7, size)
        torch.testing.assert_close(projected, outputs)
    if packed:
        sequence = pack_padded_sequence(x, [7, 4], batch_first=True)
        assert inputs_of(layer, (sequence,), {})[last].shape[1] == 11


def test_a_given_state():
    layer = nn.LSTM(5, 6, batch_first=True)
    x, state = torch.randn(2, 4, 5), tuple(torch.randn(2, 1, 2, 6))
    found = inputs_of(layer, (x, state), {})["weight_hh_l0"].view(2, 4, 6)
    torch.testing.assert_close(found[:, 0], state[0][0])
    torch.testing.assert_close(found[:, 1:], layer(x, state)[0][:, :-1])


def test_cells():
    x, h = torch.randn(2, 5), torch.randn(2, 6)
    found = inputs_of(nn.LSTMCell(5, 6), (x, (h, h)), {})
    assert torch.equal(found["weight_hh"][0], h)
    assert not inputs_of(nn.GRUCell(5, 6), (x,), {})["weight_hh"].any()


def test_the_stages_of_a_recurrent_layer():
    layer = nn.LSTM(5, 6, 2, bidirectional=True)
    names = [n for n in layer._flat_weights_names if n.startswith("weight")]
    assert stages_of(layer, names) == [
        ["weight_ih_l0", "weight_ih_l0_reverse"],
        ["weight_hh_l0", "weight_hh_l0_reverse"],
        ["weight_ih_l1", "weight_ih_l1_reverse"],
        ["weight_hh_l1", "weight_hh_l1_reverse"],
    ]


@pytest.mark.parametrize("separate", [False, True])
def test_attention(separate):
    """Query, key and value are those that its projections multiply with."""
    sizes = dict(kdim=6, vdim=4) if separate else {}
    layer = nn.MultiheadAttention(8, 2, bias=False, **sizes)
    q, k, v = torch.randn(5, 2, 8), torch.randn(7, 2, 8), torch.randn(7, 2, 8)
    if separate:
        k, v = k[..., :6], v[..., :4]
        for name, x in (("q", q), ("k", k), ("v", v)):
            weight = getattr(layer, f"{name}_proj_weight")
            found = output(layer, (q, k, v), f"{name}_proj_weight")[0]
            torch.testing.assert_close(found, F.linear(x, weight).flatten(0, 1))
        return
    found = output(layer, (q, k, v), "in_proj_weight")
    for x, rows, weight in zip((q, k, v), found, layer.in_proj_weight.chunk(3)):
        expected = F.linear(x, weight).flatten(0, 1)
        torch.testing.assert_close(rows[: len(expected)], expected)
        assert not rows[len(expected) :].any()


class Renamed(nn.Linear):
    """Nothing of its own."""


class Same(nn.Linear):
    def forward(self, x):
        return F.linear(x, self.weight.to(x.dtype), self.bias)


class Scaled(nn.Linear):
    def forward(self, x):
        return super().forward(2.0 * x)


class Causal(nn.Conv1d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(F.pad(x, (2, 0)), weight, bias)


class First(nn.GRU):
    def forward(self, x):
        return super().forward(x)[0]


@pytest.mark.parametrize(
    "layer, shape, own, known",
    [
        (nn.Linear(8, 8), (3, 8), False, True),
        (Renamed(8, 8), (3, 8), False, True),
        (Same(8, 8), (3, 8), True, True),
        (Scaled(8, 8), (3, 8), True, False),
        (Causal(8, 8, 3), (2, 8, 9), True, False),
        (First(8, 8), (5, 2, 8), True, False),
        (nn.LSTM(8, 8), (5, 2, 8), False, True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_class_that_computes_something_else_is_told(layer, shape, own, known):
    x = torch.randn(shape)
    assert is_own(layer) is own
    assert computes_as_known(layer, (x,), {}, layer(x)) is known


def test_other_parameters_are_not_multiplied():
    def multiplied(layer):
        return [n for n in layer._parameters if is_multiplied(layer, n)]

    assert multiplied(nn.Linear(4, 4)) == ["weight"]
    assert multiplied(nn.LSTMCell(4, 4)) == ["weight_ih", "weight_hh"]
    assert multiplied(nn.MultiheadAttention(4, 2))[0] == "in_proj_weight"
    assert not multiplied(nn.utils.spectral_norm(nn.Linear(4, 4)))
    for other in (nn.Embedding(4, 4), nn.ConvTranspose1d(4, 4, 3), nn.LayerNorm(4)):
        assert not multiplied(other)
