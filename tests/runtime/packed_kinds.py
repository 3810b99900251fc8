"""Every kind of packed layer beside the hardened float layer that it stands for."""

import contextlib
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Tuple

import torch
from torch import nn

import espnet_gq
from espnet_gq.packing import load_packed
from espnet_gq.runtime import set_mode


class Wrapped(nn.Module):
    """A module around one layer."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, *args):
        return self.layer(*args)


class Kind(NamedTuple):
    """A layer, and inputs for it from a generator of activations."""

    layer: Callable[[], nn.Module]
    inputs: Callable[[], Tuple[Any, ...]]


def _states(*shape, count=2):
    states = tuple(torch.randn(shape) for _ in range(count))
    return states if count > 1 else states[0]


def _sequence():
    return nn.utils.rnn.pack_padded_sequence(
        torch.randn(5, 3, 20), torch.tensor([2, 5, 3]), enforce_sorted=False
    )


class Own(nn.Linear):
    """A class with a forward of its own."""

    def forward(self, x):
        return nn.functional.linear(x, self.weight.to(x.dtype), self.bias)


class Attention(nn.MultiheadAttention):
    """Attention whose biases are not zero, to its input where only that is given."""

    def __init__(self, *sizes, **options):
        super().__init__(*sizes, **options)
        nn.init.normal_(self.in_proj_bias)
        nn.init.normal_(self.out_proj.bias)

    def forward(self, query, key=None, value=None):
        key = query if key is None else key
        return super().forward(query, key, key if value is None else value)


class Slices(nn.Module):
    """A module that is none of PyTorch's, with a matrix `weight`."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(0.2 * torch.randn(20, 33))

    def forward(self, x):
        return x @ self.weight


KINDS: Dict[str, Kind] = {
    "Linear": Kind(lambda: nn.Linear(20, 33), lambda: (torch.randn(2, 5, 20),)),
    "Linear 1-D": Kind(
        lambda: nn.Linear(20, 33, bias=False), lambda: (_states(20, count=1),)
    ),
    "Linear of a class": Kind(lambda: Own(20, 33), lambda: (torch.randn(2, 5, 20),)),
    "Other": Kind(Slices, lambda: (torch.randn(2, 5, 20),)),
    "Bilinear": Kind(
        lambda: nn.Bilinear(20, 7, 33), lambda: (torch.randn(3, 20), torch.randn(3, 7))
    ),
    "Conv1d 1": Kind(lambda: nn.Conv1d(20, 33, 1), lambda: (torch.randn(2, 20, 5),)),
    "Conv1d 3": Kind(
        lambda: nn.Conv1d(20, 34, 3, 2, groups=2), lambda: (torch.randn(2, 20, 9),)
    ),
    "Conv2d": Kind(
        lambda: nn.Conv2d(4, 33, 3, padding=1), lambda: (torch.randn(2, 4, 7, 6),)
    ),
    "Conv3d": Kind(
        lambda: nn.Conv3d(4, 33, 2, padding=1), lambda: (torch.randn(2, 4, 3, 4, 3),)
    ),
    "ConvTranspose1d": Kind(
        lambda: nn.ConvTranspose1d(20, 33, 3, 2), lambda: (torch.randn(2, 20, 5),)
    ),
    "ConvTranspose2d": Kind(
        lambda: nn.ConvTranspose2d(4, 33, 3, 2), lambda: (torch.randn(2, 4, 5, 3),)
    ),
    "EmbeddingBag": Kind(
        lambda: nn.EmbeddingBag(20, 33, padding_idx=0),
        lambda: (torch.randint(20, (2, 5)),),
    ),
    "MultiheadAttention": Kind(
        lambda: Attention(20, 4), lambda: (torch.randn(5, 3, 20),)
    ),
    "MultiheadAttention separate": Kind(
        lambda: Attention(20, 4, kdim=9, vdim=8),
        lambda: (torch.randn(5, 3, 20), torch.randn(7, 3, 9), torch.randn(7, 3, 8)),
    ),
    "Embedding": Kind(
        lambda: nn.Embedding(20, 33, padding_idx=0),
        lambda: (torch.randint(20, (2, 5)),),
    ),
    "LSTM": Kind(
        lambda: nn.LSTM(20, 33, 2, bidirectional=True),
        lambda: (torch.randn(5, 3, 20), _states(4, 3, 33)),
    ),
    "LSTM projected": Kind(
        lambda: nn.LSTM(20, 33, batch_first=True, proj_size=7, bias=False),
        lambda: (torch.randn(3, 5, 20),),
    ),
    "LSTM sequence": Kind(
        lambda: nn.LSTM(20, 33), lambda: (_sequence(), _states(1, 3, 33))
    ),
    "LSTM unbatched": Kind(lambda: nn.LSTM(20, 33), lambda: (torch.randn(5, 20),)),
    "GRU": Kind(
        lambda: nn.GRU(20, 33, 2, bidirectional=True, batch_first=True),
        lambda: (torch.randn(3, 5, 20), _states(4, 3, 33, count=1)),
    ),
    "GRU sequence": Kind(lambda: nn.GRU(20, 33), lambda: (_sequence(),)),
    "RNN": Kind(
        lambda: nn.RNN(20, 33, 2, bidirectional=True),
        lambda: (torch.randn(5, 3, 20), _states(4, 3, 33, count=1)),
    ),
    "RNN relu": Kind(
        lambda: nn.RNN(20, 33, nonlinearity="relu"), lambda: (_sequence(),)
    ),
    "RNNCell": Kind(
        lambda: nn.RNNCell(20, 33),
        lambda: (torch.randn(3, 20), _states(3, 33, count=1)),
    ),
    "LSTMCell": Kind(
        lambda: nn.LSTMCell(20, 33), lambda: (torch.randn(3, 20), _states(3, 33))
    ),
    "LSTMCell 1-D": Kind(lambda: nn.LSTMCell(20, 33), lambda: (torch.randn(20),)),
    "GRUCell": Kind(
        lambda: nn.GRUCell(20, 33),
        lambda: (torch.randn(3, 20), _states(3, 33, count=1)),
    ),
}

RECURRENT = [name for name in KINDS if "LSTM" in name or "GRU" in name]
"""Kinds whose steps run in the native library."""


def pair(
    layer: Callable[[], nn.Module], bits: int = 4, seed: int = 0, **conf
) -> Tuple[nn.Module, nn.Module]:
    """Return a packed layer and the hardened float one, in modules around them."""
    torch.manual_seed(seed)
    prepared = espnet_gq.prepare(Wrapped(layer()), {"bits": bits, **conf}).eval()
    packed = load_packed(Wrapped(layer()), espnet_gq.pack(prepared)).eval()
    return packed, espnet_gq.harden(prepared).eval()


def flat(result: Any) -> List[torch.Tensor]:
    """Return the tensors of a result."""
    if torch.is_tensor(result):
        return [result]
    if isinstance(result, nn.utils.rnn.PackedSequence):
        return [result.data]
    return [t for part in result if part is not None for t in flat(part)]


def mapped(change: Callable[[torch.Tensor], torch.Tensor], value: Any) -> Any:
    """Return inputs with their floating-point tensors changed."""
    if torch.is_tensor(value):
        return change(value) if value.is_floating_point() else value
    if isinstance(value, nn.utils.rnn.PackedSequence):
        return value._replace(data=change(value.data))
    return tuple(mapped(change, part) for part in value)


def equal(a: Any, b: Any) -> bool:
    """Return whether two results are the same numbers of the same type."""
    pairs = list(zip(flat(a), flat(b), strict=True))
    return all(x.dtype == y.dtype and torch.equal(x, y) for x, y in pairs)


def close(a: Any, b: Any, atol: float = 3e-6, rtol: float = 1e-5) -> None:
    """Assert that results agree: types, shapes, devices and values."""
    for x, y in zip(flat(a), flat(b), strict=True):
        assert x.dtype == y.dtype and x.shape == y.shape
        torch.testing.assert_close(x, y, atol=atol, rtol=rtol)


@contextlib.contextmanager
def in_mode(module: nn.Module, mode: str) -> Iterator[nn.Module]:
    """Within the block, compute in a mode."""
    set_mode(module, mode)
    try:
        yield module
    finally:
        set_mode(module, "exact")


def outcome(call: Callable[[], Any]) -> Any:
    """Return what a call returns, or the exception that it raises."""
    try:
        return call()
    except Exception as error:
        return error
