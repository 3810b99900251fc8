"""A stack in one call: the bits of its layers in turn, and when it is not made."""

import itertools

import pytest
import torch
from torch import nn
from torch.utils import _pytree

import espnet_gq
from espnet_gq import native
from espnet_gq.packing import load_packed
from espnet_gq.runtime import set_mode, stack


def tensors(results):
    return [t for t in _pytree.tree_leaves(results) if torch.is_tensor(t)]


pytestmark = pytest.mark.skipif(
    not native.available(), reason="the native library was not built"
)


def packed(make, bits=3, mode="int8"):
    torch.manual_seed(0)
    model = nn.Sequential(make())
    checkpoint = espnet_gq.pack(espnet_gq.prepare(model, {"bits": bits}).eval())
    model = load_packed(nn.Sequential(make()).eval(), checkpoint)
    set_mode(model, mode)
    return model[0]


@pytest.fixture
def calls(monkeypatch):
    """Count calls that were made as a whole."""
    made = []
    whole = stack.run

    def counted(*arguments):
        found = whole(*arguments)
        made.append(found is not None)
        return found

    monkeypatch.setattr(stack, "run", counted)
    return made


KINDS = {
    "LSTM": (nn.LSTM, {}),
    "LSTM, no bias": (nn.LSTM, dict(bias=False)),
    "LSTM, batch first": (nn.LSTM, dict(batch_first=True)),
    "projected": (nn.LSTM, dict(proj_size=7)),
    "GRU": (nn.GRU, {}),
    "GRU, no bias": (nn.GRU, dict(bias=False, batch_first=True)),
}


@pytest.mark.parametrize("mode", ["exact", "int8"])
@pytest.mark.parametrize("name", KINDS)
def test_the_bits_of_the_layers_in_turn(name, mode, calls, monkeypatch):
    cls, options = KINDS[name]
    for layers, bidirectional in itertools.product((1, 2, 3), (False, True)):
        module = packed(
            lambda: cls(13, 20, layers, bidirectional=bidirectional, **options),
            mode=mode,
        )
        whole = torch.randn(4, 5, 13)
        sequence = nn.utils.rnn.pack_padded_sequence(
            torch.randn(3, 6, 13), [6, 4, 1], batch_first=True
        )
        for x in (whole, sequence, whole[0], whole.transpose(0, 1)):
            with torch.no_grad():
                _, states = module(x)
                states = _pytree.tree_map(torch.randn_like, states)
                kept = [state.clone() for state in tensors(states)]
                calls.clear()
                ours = tensors(module(x, states))
                assert calls == [True]
                with monkeypatch.context() as patch:
                    patch.setattr(stack, "run", lambda *_: None)
                    theirs = tensors(module(x, states))
            for a, b in zip(ours, theirs):
                assert torch.equal(a, b) and a.stride() == b.stride()
            for a, b in zip(tensors(states), kept):
                assert torch.equal(a, b)


def test_calls_that_are_made_in_turn(calls):
    make = lambda: nn.LSTM(13, 20, 2, dropout=0.5)  # noqa: E731
    module, x = packed(make), torch.randn(4, 5, 13)
    module(x.requires_grad_())  # a gradient may be wanted
    with torch.no_grad():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            module(x)
        module(torch.empty(4, 0, 13))
        module.weight_hh_l1.mode = "exact"
        module(x)
        packed(lambda: nn.RNN(13, 20))(x)
    assert True not in calls
    calls.clear()
    module.train()
    with torch.no_grad():
        module(x)  # with dropout
    assert not calls


def test_a_wrong_packed_sequence_is_refused():
    module = packed(lambda: nn.LSTM(13, 20, 2))
    sizes = torch.tensor([2, 3])
    with torch.no_grad(), pytest.raises(RuntimeError, match="batch_sizes"):
        torch.lstm(
            *(torch.randn(5, 13), sizes, (torch.zeros(2, 2, 20),) * 2),
            *(module._flat_weights, True, 2, 0.0, False, False),
        )
