"""Every kind of layer that holds weights: all forms of it agree."""

import copy
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune

import espnet_gq
from espnet_gq.nn.kinds import QUANTIZED, is_matrix
from espnet_gq.nn.prepare import quantizable, weights_of
from espnet_gq.packing import load_packed, unpack_state_dict
from espnet_gq.runtime import PackedWeight, skeleton


class WhisperLinear(nn.Linear):
    """As in openai-whisper."""

    def forward(self, x):
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


class WhisperConv1d(nn.Conv1d):
    """As in openai-whisper."""

    def _conv_forward(self, x, weight, bias):
        bias = None if bias is None else bias.to(x.dtype)
        return super()._conv_forward(x, weight.to(x.dtype), bias)


class Conv1D(nn.Module):
    """As in Hugging Face's transformers (GPT-2)."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.empty(nx, nf))
        self.bias = nn.Parameter(torch.zeros(nf))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x):
        size_out = x.size()[:-1] + (self.nf,)
        x = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight)
        return x.view(size_out)


class Positions(nn.Embedding):
    """As in Hugging Face's BART."""

    def __init__(self, num_embeddings, embedding_dim):
        super().__init__(num_embeddings + 2, embedding_dim)

    def forward(self, ids):
        return super().forward(ids + 2) * 3.0


class LastState(nn.LSTM):
    def forward(self, x):
        return super().forward(x)[0][-1]


class FunctionalGRU(nn.GRU):
    """Passes PyTorch's list of weights on by itself."""

    def forward(self, x):
        h = x.new_zeros(1, x.shape[1], self.hidden_size)
        out, _ = torch.gru(
            x, h, self._flat_weights, self.bias, 1, 0.0, False, False, False
        )
        return out


class Renamed(nn.EmbeddingBag):
    """Nothing of its own."""


class Direct(nn.Linear):
    """Calls its float class by name."""

    def forward(self, x):
        return nn.Linear.forward(self, x)


def frames(*shape):
    return lambda: (torch.randn(shape),)


def labels(*shape):
    return lambda: (torch.randint(9, shape),)


def attention(*sizes, batch_first=False):
    """Return query, key and value of these sizes, of lengths 5 and 7."""
    shapes = [(5, 2, sizes[0])] + [(7, 2, size) for size in sizes[1:]]

    def make():
        found = [torch.randn(shape) for shape in shapes]
        if len(found) == 1:
            return (found[0],) * 3
        return tuple(t.transpose(0, 1) for t in found) if batch_first else tuple(found)

    return make


def encoder_layer(**options):
    return nn.TransformerEncoderLayer(
        8, 2, 16, dropout=0.0, batch_first=True, **options
    )


KINDS = {
    "Linear": (lambda: nn.Linear(8, 8), frames(2, 5, 8)),
    "Linear of Whisper": (lambda: WhisperLinear(8, 8), frames(2, 5, 8)),
    "Linear by name": (lambda: Direct(8, 8), frames(2, 5, 8)),
    "Bilinear": (
        lambda: nn.Bilinear(8, 6, 5),
        lambda: (torch.ones(3, 8), torch.randn(3, 6)),
    ),
    "Conv1d": (
        lambda: nn.Conv1d(8, 8, 3, padding=1, padding_mode="reflect"),
        frames(2, 8, 9),
    ),
    "Conv1d of Whisper": (lambda: WhisperConv1d(8, 8, 3, padding=1), frames(2, 8, 9)),
    "Conv1d of Whisper 1": (lambda: WhisperConv1d(8, 8, 1), frames(2, 8, 9)),
    "Conv2d": (
        lambda: nn.Conv2d(2, 6, 3, padding=1, padding_mode="replicate"),
        frames(2, 2, 5, 6),
    ),
    "Conv3d": (
        lambda: nn.Conv3d(4, 6, 2, padding=1, padding_mode="circular"),
        frames(2, 4, 3, 3, 3),
    ),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(8, 6, 3, 2), frames(2, 8, 9)),
    "ConvTranspose2d": (
        lambda: nn.ConvTranspose2d(8, 6, 3, 2, groups=2),
        frames(2, 8, 5, 6),
    ),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(4, 6, 2), frames(2, 4, 3, 3, 3)),
    "ConvTranspose1d sized": (
        lambda: nn.ConvTranspose1d(8, 6, 3, 2),
        lambda: (torch.randn(2, 8, 9), [20]),
    ),
    "Embedding": (lambda: nn.Embedding(9, 8), labels(4, 5)),
    "Embedding padded": (lambda: nn.Embedding(9, 8, padding_idx=1), labels(4, 5)),
    "Embedding of BART": (lambda: Positions(9, 8), labels(4, 5)),
    "EmbeddingBag": (lambda: nn.EmbeddingBag(9, 8), labels(4, 5)),
    "EmbeddingBag padded": (
        lambda: nn.EmbeddingBag(9, 8, padding_idx=-1),
        labels(4, 5),
    ),
    "EmbeddingBag max": (
        lambda: nn.EmbeddingBag(9, 8, mode="max"),
        lambda: (torch.randint(9, (7,)), torch.tensor([0, 3, 3])),
    ),
    "EmbeddingBag weighted": (
        lambda: nn.EmbeddingBag(9, 8, mode="sum", include_last_offset=True),
        lambda: (torch.randint(9, (7,)), torch.tensor([0, 3, 7]), torch.randn(7)),
    ),
    "EmbeddingBag limited": (lambda: Renamed(9, 8, max_norm=0.5), labels(4, 5)),
    "LSTM": (lambda: nn.LSTM(8, 8, 2, bidirectional=True), frames(5, 2, 8)),
    "LSTM of a class": (lambda: LastState(8, 8), frames(5, 2, 8)),
    "GRU": (lambda: nn.GRU(8, 8), frames(5, 2, 8)),
    "GRU functional": (lambda: FunctionalGRU(8, 8), frames(5, 2, 8)),
    "RNN": (lambda: nn.RNN(8, 8, 2, bidirectional=True), frames(5, 2, 8)),
    "RNN relu": (
        lambda: nn.RNN(8, 8, nonlinearity="relu", batch_first=True),
        frames(2, 5, 8),
    ),
    "LSTMCell": (
        lambda: nn.LSTMCell(8, 8),
        lambda: (torch.randn(3, 8), torch.randn(2, 3, 8).unbind()),
    ),
    "GRUCell": (lambda: nn.GRUCell(8, 8), lambda: torch.randn(2, 3, 8).unbind()),
    "RNNCell": (lambda: nn.RNNCell(8, 8), lambda: torch.randn(2, 3, 8).unbind()),
    "RNNCell relu": (
        lambda: nn.RNNCell(8, 8, nonlinearity="relu"),
        lambda: torch.randn(2, 3, 8).unbind(),
    ),
    "MultiheadAttention": (lambda: nn.MultiheadAttention(8, 2), attention(8)),
    "MultiheadAttention crossed": (
        lambda: nn.MultiheadAttention(8, 2, batch_first=True, add_zero_attn=True),
        attention(8, 8, 8, batch_first=True),
    ),
    "MultiheadAttention separate": (
        lambda: nn.MultiheadAttention(8, 2, kdim=6, vdim=4, add_bias_kv=True),
        attention(8, 6, 4),
    ),
    "TransformerEncoderLayer": (encoder_layer, frames(2, 5, 8)),
    "TransformerEncoder": (
        lambda: nn.TransformerEncoder(encoder_layer(), 2),
        frames(2, 5, 8),
    ),
    "TransformerDecoderLayer": (
        lambda: nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0),
        lambda: (torch.randn(5, 2, 8), torch.randn(7, 2, 8)),
    ),
    "Transformer": (
        lambda: nn.Transformer(8, 2, 1, 1, 16, dropout=0.0),
        lambda: (torch.randn(7, 2, 8), torch.randn(5, 2, 8)),
    ),
    "Conv1D of GPT-2": (lambda: Conv1D(12, 8), frames(2, 5, 8)),
}


def old_weight_norm(layer, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(layer, name)


def pruned(layer, name):
    prune.l1_unstructured(layer, name, 0.3)
    return layer


WAYS = {
    "weight_norm": old_weight_norm,
    "spectral_norm": nn.utils.spectral_norm,
    "pruning": pruned,
    "parametrized weight_norm": parametrizations.weight_norm,
    "parametrized spectral_norm": parametrizations.spectral_norm,
}
NAMES = {
    **{"Linear": "weight", "Linear of Whisper": "weight", "Conv1d": "weight"},
    **{"ConvTranspose1d": "weight", "Embedding": "weight", "LSTM": "weight_hh_l1"},
    **{"GRUCell": "weight_ih", "RNN": "weight_ih_l0", "Conv1D of GPT-2": "weight"},
    **{"MultiheadAttention": "in_proj_weight", "EmbeddingBag": "weight"},
}
for way, apply in WAYS.items():
    for kind, name in NAMES.items():
        plain, inputs = KINDS[kind]
        KINDS[f"{kind}, {way}"] = (
            lambda plain=plain, apply=apply, name=name: apply(plain(), name),
            inputs,
        )
PARAMETRIZED = [kind for kind in KINDS if "parametrized" in kind]
"""PyTorch does not pickle these."""


class Wrapped(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, *args):
        return self.layer(*args)


def flat(result):
    if torch.is_tensor(result):
        return [result]
    return [t for part in result if part is not None for t in flat(part)]


def close(found, expected):
    for a, b in zip(flat(found), flat(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def equal(found, expected):
    pairs = zip(flat(found), flat(expected), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def float_module(kind, seed=0):
    torch.manual_seed(seed)
    return Wrapped(KINDS[kind][0]())


def inputs_of(kind):
    torch.manual_seed(7)
    return KINDS[kind][1]()


def trained(kind, bits=3, **conf):
    """Return a module after a training step."""
    module = float_module(kind)
    conf = {"bits": bits, "annealing": {"steps": 5}, **conf}
    module = espnet_gq.prepare(module, conf)
    out = flat(module(*inputs_of(kind)))
    sum((t * torch.arange(t.numel()).view(t.shape).cos()).sum() for t in out).backward()
    return module


def test_every_class_of_the_table_is_tried():
    tried = {
        layer.float_class
        for kind in KINDS
        for layer in espnet_gq.prepare(float_module(kind), {"bits": 4}).modules()
        if hasattr(layer, "float_class")
    }
    assert tried >= set(QUANTIZED)


@pytest.mark.parametrize("kind", KINDS)
def test_its_matrices_are_quantized(kind):
    module = float_module(kind)
    matrices = {n: p.numel() for n, p in module.named_parameters() if is_matrix(p)}
    found = {f"{k}.{n}" for k, names in quantizable(module).items() for n in names}
    names = list(module.state_dict())
    espnet_gq.prepare(module, {"bits": 4})
    summary = espnet_gq.summarize(module)
    assert set(summary.quantized) == set(matrices) == found
    assert sum(summary.numel.values()) >= 0.95 * sum(matrices.values())
    assert {weight.name for weight in weights_of(module)} == {
        n.removesuffix(".weight") for n in matrices
    }
    assert [n for n in module.state_dict() if "_quantizer." not in n] == names


@pytest.mark.parametrize("kind", KINDS)
def test_training_reaches_weights_and_quantizers(kind):
    module = trained(kind, forward="soft")
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        if "weight" in name or "original" in name:
            assert parameter.grad.any(), name


@pytest.mark.parametrize("bits", [1, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_evaluated_hardened_and_packed(kind, bits):
    module, x = trained(kind, bits).eval(), inputs_of(kind)
    hardened = espnet_gq.harden(module)
    names = [type(m.layer).__name__ for m in (hardened, float_module(kind))]
    assert names[0] == names[1]
    expected = hardened(*x)
    if "limited" in kind:  # PyTorch changes the weight in place
        close(module(*x), expected)
    else:
        assert equal(module(*x), expected)
    packed = espnet_gq.pack(module)
    names = list(float_module(kind).state_dict())
    assert list(hardened.state_dict()) == names
    assert [n for n in unpack_state_dict(packed) if "_quantizer." not in n] == names
    with skeleton():
        model = float_module(kind)
    load_packed(model, packed).eval()
    assert len({w.parameter for w in weights_of(module)}) == sum(
        isinstance(m, PackedWeight) for m in model.modules()
    )
    prepared = espnet_gq.prepare(float_module(kind), {"bits": bits})
    load_packed(prepared, packed).eval()
    for context in (torch.no_grad, torch.enable_grad, torch.inference_mode):
        with context():
            close(module(*x), expected)
            close(model(*x), expected)
            close(prepared(*x), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_copied(kind):
    module, x = trained(kind).eval(), inputs_of(kind)
    expected = module(*x)
    other = espnet_gq.prepare(float_module(kind, seed=1), {"bits": 3}).eval()
    other.load_state_dict(module.state_dict())
    assert equal(other(*x), expected)
    plain = float_module(kind, seed=1).eval()
    plain.load_state_dict(espnet_gq.harden(module).state_dict())
    close(plain(*x), expected)
    packed = load_packed(float_module(kind, seed=1), espnet_gq.pack(module)).eval()
    with torch.no_grad():  # PyTorch copies no tensor that has a history
        for form in (module, packed):
            form(*x)
            copies = [copy.deepcopy(form)]
            if kind not in PARAMETRIZED:
                copies.append(pickle.loads(pickle.dumps(form)))
            for found in copies:
                assert type(found.layer) is type(form.layer)
                close(found(*x), expected)
                assert list(found.state_dict()) == list(form.state_dict())


@pytest.mark.parametrize("kind", ["Linear", "Linear of Whisper", "LSTM", "GRUCell"])
def test_other_uses_of_a_weight_count(kind):
    """A weight that something else uses is the same one, quantized."""

    class Twice(Wrapped):
        def forward(self, *args):
            used = self.layer(*args)
            weight = next(p for n, p in self.named_parameters() if "weight" in n)
            name = next(n for n, p in self.layer._parameters.items() if p is weight)
            return flat(used)[0], getattr(self.layer, name).square().mean()

    torch.manual_seed(0)
    module = espnet_gq.prepare(Twice(KINDS[kind][0]()), {"bits": 2}).eval()
    x = inputs_of(kind)
    assert equal(module(*x), espnet_gq.harden(module)(*x))


TRACED = ["Linear of Whisper", "Conv1D of GPT-2", "MultiheadAttention", "RNN"]
TRACED += ["ConvTranspose1d", "EmbeddingBag", "Linear, weight_norm"]


@pytest.mark.parametrize("kind", TRACED)
@pytest.mark.filterwarnings("ignore")
def test_tracing_asks_for_the_hardened_module(kind):
    module, x = trained(kind).eval(), inputs_of(kind)
    for trace in (
        lambda: torch.jit.trace(module, x, check_trace=False),
        lambda: torch.export.export(module, x, strict=False),
    ):
        with torch.no_grad(), pytest.raises(RuntimeError, match="espnet_gq.harden"):
            trace()
