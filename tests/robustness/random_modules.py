"""Small random modules made of all layers that can be quantized and their options.

A `Spec` describes a module completely: blocks, input, configuration, types. It is plain
data, so that failing modules can be printed, shrunk and rebuilt.
"""

import contextlib
import copy
from dataclasses import dataclass, replace
from typing import Any, Dict, Iterator, List, Optional, Tuple

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import nn

from espnet_gq.quantizer.methods import METHODS

DTYPES = {
    name: getattr(torch, name) for name in ("float32", "float64", "bfloat16", "float16")
}


# --- blocks: x (batch, time, size), (time, size) or (size,) -> the same ---------------


class Convolution(nn.Module):
    """A convolution over time, or over time and part of the features."""

    def __init__(self, channels: Optional[int], **options: Any):
        super().__init__()
        self.channels = channels
        self.conv = (nn.Conv1d if channels is None else nn.Conv2d)(**options)

    def forward(self, x):
        if self.channels is None:
            return self.conv(x.transpose(-1, -2)).transpose(-1, -2)
        x = x.unflatten(-1, (self.channels, -1)).transpose(-2, -3)
        return self.conv(x).transpose(-2, -3).flatten(-2)


class Upsampling(nn.Module):
    """A transposed convolution over time."""

    def __init__(self, **options: Any):
        super().__init__()
        self.conv = nn.ConvTranspose1d(**options)

    def forward(self, x):
        return self.conv(x.transpose(-1, -2)).transpose(-1, -2)


class Recurrent(nn.Module):
    """An LSTM, GRU or RNN, optionally with initial states or on padded sequences."""

    def __init__(self, kind, states: Optional[int], lengths, **options: Any):
        super().__init__()
        self.rnn = getattr(nn, kind)(**options)
        self.lengths = lengths
        self.has_states = states is not None
        if states is not None:
            rnn = self.rnn
            stacked = rnn.num_layers * (2 if rnn.bidirectional else 1)
            batch = [states] if states >= 0 else []  # -1: unbatched
            for name, size in (
                ("h", rnn.proj_size or rnn.hidden_size),
                ("c", rnn.hidden_size),
            ):
                self.register_buffer(name, torch.randn(stacked, *batch, size))

    def forward(self, x):
        rnn, states = self.rnn, None
        if self.has_states:
            states = (self.h, self.c) if rnn.mode == "LSTM" else self.h
        turned = x.dim() == 3 and not rnn.batch_first
        if turned:
            x = x.transpose(0, 1)
        if self.lengths:
            first = rnn.batch_first
            lengths = torch.tensor(self.lengths)
            x = nn.utils.rnn.pack_padded_sequence(x, lengths, first, False)
            y, last = rnn(x, states)
            y, _ = nn.utils.rnn.pad_packed_sequence(y, first)
        else:
            y, last = rnn(x, states)
        last = last[0] if rnn.mode == "LSTM" else last
        if turned:
            y = y.transpose(0, 1)
        return y + last.mean() if last.numel() else y


class Cell(nn.Module):
    """A cell that steps through time."""

    def __init__(self, kind, **options: Any):
        super().__init__()
        self.cell = getattr(nn, kind)(**options)

    def forward(self, x):
        if x.dim() == 1:
            return self._hidden(self.cell(x))
        state, out = None, []
        for step in x.unbind(-2):
            state = self.cell(step, state)
            out.append(self._hidden(state))
        return torch.stack(out, -2)

    @staticmethod
    def _hidden(state):
        return state if torch.is_tensor(state) else state[0]


class Attention(nn.Module):
    """PyTorch's attention to the input itself, or to some of it."""

    def __init__(self, size, heads, separate: bool = False, first: bool = False):
        super().__init__()
        sizes = dict(kdim=size, vdim=size - 1) if separate else {}
        self.attention = nn.MultiheadAttention(size, heads, batch_first=True, **sizes)
        self.separate, self.first = separate, first

    def forward(self, x):
        key = x[..., :1, :] if self.first else x
        value = key[..., 1:] if self.separate else key
        return x + self.attention(x, key, value, need_weights=False)[0]


class Transformer(nn.Module):
    """PyTorch's Transformer layers; their fast path reads weights directly."""

    def __init__(
        self, layers, padded: Optional[Tuple[Tuple[bool, ...], ...]], **options
    ):
        super().__init__()
        layer = nn.TransformerEncoderLayer(batch_first=True, **options)
        self.encoder: nn.Module = (
            nn.TransformerEncoder(layer, layers) if layers else layer
        )
        self.padded: Optional[torch.Tensor]
        self.register_buffer("padded", None if padded is None else torch.tensor(padded))

    def forward(self, x):
        y = self.encoder(x, src_key_padding_mask=self.padded)
        if self.padded is None:
            return y
        # The fast path returns zeros at padded positions, the slow path other values.
        return y.masked_fill(self.padded.unsqueeze(-1), 0.0)


class Masked(nn.Module):
    """Causal attention without weights; its mask is a buffer that contains -inf."""

    def __init__(self, time):
        super().__init__()
        mask = torch.full((time, time), -torch.inf).triu(1)
        self.register_buffer("mask", mask)

    def forward(self, x):
        scores = x @ x.transpose(-1, -2) / x.shape[-1]
        return (scores + self.mask).softmax(-1) @ x


class Batched(nn.BatchNorm1d):
    """Batch normalization over (batch, time, size)."""

    def forward(self, x):
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class Autoencoder(nn.Module):
    """A layer whose transposed weight is used a second time as a plain tensor."""

    def __init__(self, size, hidden):
        super().__init__()
        self.layer = nn.Linear(size, hidden)

    def forward(self, x):
        return F.linear(torch.tanh(self.layer(x)), self.layer.weight.t())


class Remembering(nn.Module):
    """A module with state that is not a tensor."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def get_extra_state(self):
        return {"value": self.value, "names": ["a", None]}

    def set_extra_state(self, state):
        self.value = state["value"]

    def forward(self, x):
        return x + self.value


class Gated(nn.Module):
    """A gated linear unit."""

    def __init__(self, size, hidden):
        super().__init__()
        self.layer = nn.Linear(size, 2 * hidden, bias=False)

    def forward(self, x):
        return F.glu(self.layer(x), -1)


class Own(nn.Linear):
    """A linear layer with a forward of its own, as Whisper has it."""

    def forward(self, x):
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


class Slices(nn.Module):
    """A linear layer with a transposed weight, as GPT-2 of Hugging Face has it."""

    def __init__(self, size, out):
        super().__init__()
        self.weight = nn.Parameter(0.3 * torch.randn(size, out))
        self.bias = nn.Parameter(torch.zeros(out))

    def forward(self, x):
        y = torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight)
        return y.view(*x.shape[:-1], self.weight.shape[1])


class Normed(nn.Module):
    """A linear layer whose weight is computed from a parameter."""

    def __init__(self, way, **options: Any):
        super().__init__()
        layer = nn.Linear(**options)
        self.layer = getattr(nn.utils.parametrizations, way)(layer)

    def forward(self, x):
        return self.layer(x)


class Pair(nn.Module):
    """A bilinear layer."""

    def __init__(self, size, out):
        super().__init__()
        self.layer = nn.Bilinear(size, size, out)

    def forward(self, x):
        return self.layer(x, torch.tanh(x))


BLOCKS = {
    cls.__name__: cls
    for cls in (
        *(nn.Linear, nn.Embedding, nn.LayerNorm, nn.Dropout, nn.Sequential),
        *(nn.Tanh, nn.GELU, Convolution, Recurrent, Cell, Attention, Transformer),
        *(Masked, Batched, Autoencoder, Remembering, Gated, Upsampling, Own, Slices),
        *(Normed, Pair),
    )
}


@dataclass(frozen=True)
class Block:
    """A block: a name of BLOCKS and arguments, or "again" with the index of another."""

    kind: str
    options: Dict[str, Any]


@dataclass(frozen=True)
class Spec:
    """A module and everything that is done to it."""

    blocks: Tuple[Block, ...]
    head: Optional[str]
    """How the weight of the first block, an embedding, is used a second time."""
    alias: bool
    """Whether the last block is called through a second name."""
    shape: Tuple[int, ...]
    """Shape of the input, without features if it consists of indices."""
    values: str
    """Distribution of the weights."""
    dtype: str
    default: str
    """PyTorch's default type while the module is prepared, packed and evaluated."""
    conf: Dict[str, Any]
    steps: int
    """Training steps after preparation."""
    frozen: bool
    seed: int

    @property
    def pickles(self) -> bool:
        """Whether PyTorch pickles the float module."""
        return all(block.kind != "Normed" for block in self.blocks)

    @property
    def looked_up(self) -> bool:
        """Whether the input consists of indices for an embedding."""
        return self.blocks[0].kind == "Embedding"

    def build(
        self, seed: Optional[int] = None, dtype: Optional[str] = None
    ) -> nn.Module:
        """Return the float module."""
        with seeded(self.seed if seed is None else seed):
            return Net(self).to(DTYPES[dtype or self.dtype])

    def input(self, seed: int = 0, dtype: Optional[str] = None) -> torch.Tensor:
        """Return an input."""
        with seeded(self.seed + 1000 + seed):
            if self.looked_up:
                return torch.randint(
                    0, self.blocks[0].options["num_embeddings"], self.shape
                )
            return torch.randn(self.shape, dtype=torch.float32).to(
                DTYPES[dtype or self.dtype]
            )


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed PyTorch's generator within the context; restore its state afterwards."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)  # much faster than torch.manual_seed
    try:
        yield
    finally:
        torch.set_rng_state(state)


@contextlib.contextmanager
def default_dtype(name: str) -> Iterator[None]:
    """Change PyTorch's default type within the context."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(DTYPES[name])
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class Net(nn.Module):
    """The module of a `Spec`."""

    def __init__(self, spec: Spec):
        super().__init__()
        self.blocks: Any = nn.ModuleList()
        for block in spec.blocks:
            if block.kind == "again":
                self.blocks.append(self.blocks[block.options["of"]])
            else:
                self.blocks.append(BLOCKS[block.kind](**copy.deepcopy(block.options)))
        with torch.no_grad():
            for parameter in self.parameters():
                _set(parameter, spec.values)
            for module in self.modules():
                if isinstance(module, Batched):
                    for name, buffer in module.named_buffers():
                        if name == "running_mean":
                            buffer.normal_()
                        elif name == "running_var":
                            buffer.uniform_(0.5, 2.0)
        self.head = spec.head
        if spec.head == "tied":
            embedding: Any = self.blocks[0]
            self.out: Any = nn.Linear(embedding.embedding_dim, embedding.num_embeddings)
            self.out.weight = embedding.weight
        self.last = self.blocks[-1] if spec.alias else None
        if spec.frozen:
            self.requires_grad_(False)

    def forward(self, x):
        blocks = list(self.blocks)
        if self.last is not None:
            blocks[-1] = self.last
        for block in blocks:
            x = block(x)
        if self.head == "tied":
            return self.out(x)
        if self.head == "functional":
            return F.linear(x, self.blocks[0].weight)
        if self.head == "product":
            return x @ self.blocks[0].weight.T
        if self.head == "penalty":
            return x, self.blocks[0].weight.square().mean()
        return x


def _set(parameter: torch.Tensor, values: str) -> None:
    if values == "zeros":
        parameter.zero_()
    elif values == "ones":
        parameter.fill_(1.0)
    elif values == "a row of zeros" and parameter.dim() > 1 and len(parameter):
        parameter[-1] = 0.0
    elif values == "heavy tails" and parameter.dim() > 1:
        parameter.copy_(0.2 * torch.randn_like(parameter) ** 3)
    elif values == "large":
        parameter.mul_(10.0)
    elif values == "tiny" and parameter.dim() > 1:
        parameter.mul_(1e-6)
    elif values == "few" and parameter.dim() > 1:
        parameter.copy_(parameter.sign() * 0.5)


# --- strategies -----------------------------------------------------------------------

SIZES = st.one_of(st.integers(1, 6), st.sampled_from([8, 16, 17, 33]))
VALUES = (
    *("usual", "usual", "usual", "zeros", "ones", "a row of zeros", "heavy tails"),
    *("large", "tiny", "few"),
)


@st.composite
def _convolution(draw, shape):
    *batch, time, size = shape
    two = draw(st.booleans())
    channels = None
    if two:
        channels = draw(
            st.sampled_from([c for c in range(1, size + 1) if size % c == 0])
        )
    spatial = [time, size // channels] if two else [time]
    inner = channels or size
    groups = draw(st.sampled_from([1, 1, inner]))
    out = groups * draw(st.integers(1, 4))
    kernel = [draw(st.integers(1, min(3, n + 1))) for n in spatial]
    dilation = [draw(st.integers(1, 2)) for _ in spatial]
    mode = draw(st.sampled_from(["zeros", "zeros", "reflect", "circular", "replicate"]))
    stride = [1] * len(spatial)
    padding: Any = "same"
    after = spatial
    if draw(st.booleans()):
        stride = [draw(st.integers(1, 2)) for _ in spatial]
        amounts = [draw(st.integers(0, max(0, min(2, n - 1)))) for n in spatial]
        after = [
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(spatial, amounts, dilation, kernel, stride)
        ]
        if min(after) < 1:  # input too short
            kernel, amounts = [1] * len(spatial), [0] * len(spatial)
            after = [(n - 1) // s + 1 for n, s in zip(spatial, stride)]
        padding = tuple(amounts)
        if not any(amounts) and draw(st.booleans()):
            padding = "valid"
    if (
        padding == "same"
        and mode == "reflect"
        and any(d * (k - 1) >= 2 * n for n, d, k in zip(spatial, dilation, kernel))
    ):
        mode = "zeros"
    options = dict(
        channels=channels,
        in_channels=inner,
        out_channels=out,
        kernel_size=tuple(kernel),
        stride=tuple(stride),
        padding=padding,
        dilation=tuple(dilation),
        groups=groups,
        bias=draw(st.booleans()),
        padding_mode=mode,
    )
    size = out * after[1] if two else out
    return Block("Convolution", options), (*batch, after[0], size)


@st.composite
def _upsampling(draw, shape):
    *batch, time, size = shape
    groups = draw(st.sampled_from([1, size]))
    out = groups * draw(st.integers(1, 4))
    kernel, stride = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    options = dict(
        in_channels=size,
        out_channels=out,
        kernel_size=kernel,
        stride=stride,
        groups=groups,
        bias=draw(st.booleans()),
    )
    return Block("Upsampling", options), (*batch, (time - 1) * stride + kernel, out)


@st.composite
def _recurrent(draw, shape):
    *batch, time, size = shape
    kind = draw(st.sampled_from(["LSTM", "GRU", "RNN"]))
    hidden = draw(SIZES)
    projected = kind == "LSTM" and hidden > 1 and draw(st.booleans())
    both = draw(st.booleans())
    states = None
    if draw(st.booleans()):
        states = batch[0] if batch else -1
    lengths = None
    if batch and batch[0] and draw(st.booleans()):
        lengths = tuple(draw(st.integers(1, time)) for _ in range(batch[0]))
        time = max(lengths)
    options = dict(
        kind=kind,
        states=states,
        lengths=lengths,
        input_size=size,
        hidden_size=hidden,
        num_layers=draw(st.integers(1, 2)),
        bias=draw(st.booleans()),
        batch_first=draw(st.booleans()),
        bidirectional=both,
    )
    if kind == "RNN":
        options["nonlinearity"] = draw(st.sampled_from(["tanh", "relu"]))
    if projected:
        options["proj_size"] = draw(st.integers(1, hidden - 1))
    out = options.get("proj_size") or hidden
    return Block("Recurrent", options), (*batch, time, out * (1 + both))


def _heads(size: int) -> st.SearchStrategy:
    return st.sampled_from([h for h in (1, 2, 4) if size % h == 0])


@st.composite
def _block(draw, shape, before):
    """Draw a block for a shape; return it and the shape after it."""
    *rest, size = shape
    kinds = ["Linear", "Linear", "Cell", "Other", "Gated", "Autoencoder"]
    kinds += ["Own", "Slices", "Normed", "Pair"]
    if len(shape) > 1:
        kinds += ["Convolution", "Convolution", "Recurrent", "Recurrent"]
        kinds += ["Attention", "Attention", "Transformer", "Masked", "Upsampling"]
    if len(shape) == 3:
        kinds += ["Batched"]
    same = [i for i, (block, s) in enumerate(before) if s == (shape, shape)]
    if same:
        kinds += ["again", "again"]
    kind = draw(st.sampled_from(kinds))
    if kind == "Convolution":
        return draw(_convolution(shape))
    if kind == "Recurrent":
        return draw(_recurrent(shape))
    after = tuple(shape)
    if kind == "again":
        return Block(kind, {"of": draw(st.sampled_from(same))}), after
    if kind == "Upsampling":
        return draw(_upsampling(shape))
    if kind in ("Linear", "Own", "Normed"):
        # Often of the same size, so that it can be used again.
        out = draw(st.one_of(st.just(size), SIZES))
        options = dict(in_features=size, out_features=out, bias=draw(st.booleans()))
        if kind == "Normed":
            options["way"] = draw(st.sampled_from(["weight_norm", "spectral_norm"]))
        return Block(kind, options), (*rest, out)
    if kind in ("Slices", "Pair"):
        out = draw(SIZES)
        return Block(kind, dict(size=size, out=out)), (*rest, out)
    if kind == "Gated":
        out = draw(SIZES)
        return Block(kind, dict(size=size, hidden=out)), (*rest, out)
    if kind == "Cell":
        out = draw(SIZES)
        cell = draw(st.sampled_from(["LSTMCell", "GRUCell", "RNNCell"]))
        options = dict(input_size=size, hidden_size=out, bias=draw(st.booleans()))
        return Block(kind, dict(kind=cell, **options)), (*rest, out)
    if kind == "Autoencoder":
        return Block(kind, dict(size=size, hidden=draw(SIZES))), after
    if kind == "Attention":
        options = dict(size=size, heads=draw(_heads(size)), first=draw(st.booleans()))
        if size > 1:
            options["separate"] = draw(st.booleans())
        return Block(kind, options), after
    if kind == "Masked":
        return Block(kind, dict(time=rest[-1])), after
    if kind == "Batched":
        return Block(kind, dict(num_features=size)), after
    if kind == "Transformer":
        padded = None
        if len(rest) == 2 and rest[0] and draw(st.booleans()):
            lengths = [draw(st.integers(1, rest[1])) for _ in range(rest[0])]
            lengths[0] = rest[1]
            padded = tuple(tuple(t >= n for t in range(rest[1])) for n in lengths)
        options = dict(
            layers=draw(st.integers(0, 2)),
            padded=padded,
            d_model=size,
            nhead=draw(_heads(size)),
            dim_feedforward=draw(SIZES),
            dropout=draw(st.sampled_from([0.0, 0.1])),
            activation=draw(st.sampled_from(["relu", "gelu"])),
            norm_first=draw(st.booleans()),
            bias=draw(st.booleans()),
        )
        return Block(kind, options), after
    other = draw(
        st.sampled_from(["LayerNorm", "Dropout", "Tanh", "GELU", "Remembering"])
    )
    options = {
        "LayerNorm": {"normalized_shape": size},
        "Dropout": {"p": 0.3},
        "Remembering": {"value": draw(st.integers(-1, 2)) / 2},
    }.get(other, {})
    return Block(other, options), after


@st.composite
def _configuration(draw, blocks: int):
    bits = draw(st.integers(1, 8))
    conf: Dict[str, Any] = {"bits": bits}
    choices = ["gq", "gq", "gq", "uniform", "lloyd_max", "dkm", "free"]
    choices += ["lsq"] if bits > 1 else []
    choices += ["ternary"] if bits < 3 else []
    conf["method"] = method = draw(st.sampled_from(choices))
    assert set(choices) <= set(METHODS)
    granularity = draw(st.sampled_from([None, "tensor", "gate", "channel"]))
    if granularity is not None:
        conf["granularity"] = granularity
    if method in ("gq", "dkm", "free"):
        conf["forward"] = draw(st.sampled_from(["auto", "soft", "hard"]))
    if method == "gq" and draw(st.booleans()):
        conf["method_conf"] = draw(
            st.sampled_from(
                [{"mu": 255.0}, {"mu": 5.0, "fit": False}, {"train_mu": False}]
            )
        )
    conf["annealing"] = {"steps": 10, "warmup_steps": draw(st.sampled_from([0, 0, 2]))}
    conf["every"] = draw(st.sampled_from([1, 1, 2]))
    rules = []
    # Widths that other methods accept or refuse.
    widths = st.integers(1, 8) if method not in ("ternary", "lsq") else st.just(2)
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        at = draw(st.integers(0, blocks - 1))
        patterns = ["*", f"blocks.{at}*", f"blocks.{at}.*", "*weight_hh*"]
        rule: Dict[str, Any] = {"pattern": draw(st.sampled_from(patterns))}
        what = draw(st.sampled_from(["float", "bits", "granularity"]))
        if what == "float":
            rule[what] = True
        elif what == "bits":
            rule[what] = draw(widths)
        else:
            rule[what] = draw(st.sampled_from(["tensor", "gate", "channel"]))
        rules.append(rule)
    if rules:
        conf["rules"] = rules
    return conf


@st.composite
def specs(draw):
    """Draw a `Spec`."""
    layout = draw(st.sampled_from(["vector", "one", "batch", "batch", "batch"]))
    batch = draw(st.sampled_from([0, 1, 2, 3]))
    time = draw(st.sampled_from([1, 2, 3, 5, 8]))
    outside = {"vector": (), "one": (time,), "batch": (batch, time)}[layout]
    blocks: List[Block] = []
    before: List[Tuple[Block, Any]] = []
    head = None
    size = draw(SIZES)
    shape = (*outside, size)
    looked_up = draw(st.booleans())
    if looked_up:
        limit = draw(st.sampled_from([None, None, None, 0.5, 2.0]))
        rows = draw(SIZES)
        options = dict(
            num_embeddings=rows,
            embedding_dim=size,
            padding_idx=draw(st.sampled_from([None, 0, rows - 1])),
            max_norm=limit,
            norm_type=draw(st.sampled_from([2.0, 1.0])),
            scale_grad_by_freq=draw(st.booleans()),
            sparse=draw(st.sampled_from([False, False, True])),
        )
        blocks.append(Block("Embedding", options))
        before.append((blocks[0], None))
        if limit is None:  # the lookup changes the weight: order would matter
            head = draw(
                st.sampled_from(
                    [None, None, "tied", "functional", "product", "penalty"]
                )
            )
    for _ in range(draw(st.integers(0 if looked_up else 1, 4))):
        block, after = draw(_block(shape, before))
        if head in ("tied", "functional", "product") and after[-1] != size:
            continue
        blocks.append(block)
        before.append((block, (shape, after)))
        shape = after
    alias = len(blocks) > looked_up and draw(st.sampled_from([False, False, True]))
    usual = ["float32"] * 5
    spec = Spec(
        blocks=tuple(blocks),
        head=head,
        alias=alias,
        shape=outside if looked_up else (*outside, size),
        values=draw(st.sampled_from(VALUES)),
        dtype=draw(st.sampled_from([*usual, "float64", "bfloat16", "float16"])),
        default=draw(st.sampled_from([*usual, "float64", "bfloat16", "float16"])),
        conf=draw(_configuration(len(blocks))),
        steps=draw(st.sampled_from([0, 0, 1, 3])),
        frozen=draw(st.sampled_from([False, False, False, True])),
        seed=draw(st.integers(0, 99)),
    )
    if any(s == 0 for s in spec.shape):
        spec = replace(spec, steps=0)
    return spec
