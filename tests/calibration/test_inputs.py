"""The inputs of each weight: products with them are what the layer computes."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from espnet_gq.calibration.inputs import groups_and_columns, inputs_of, stages_of


def output(layer, x, attribute="weight"):
    """The products of a weight with its inputs, (G, n, R)."""
    w = layer.get_parameter(attribute)
    groups, columns = groups_and_columns(layer, tuple(w.shape))
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
