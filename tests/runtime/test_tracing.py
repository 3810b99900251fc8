"""Traced, exported and compiled packed layers give what eager ones give."""

import copy

import pytest
import torch
import torch.nn.functional as F
from packed_kinds import KINDS as PICKLED
from packed_kinds import Kind, close, flat, in_mode, mapped, pair
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from espnet_gq.runtime import PackedWeight, ops  # noqa: F401  registers the operators

KINDS = {
    **PICKLED,
    "Linear normed": Kind(
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(20, 33)),
        lambda: (torch.randn(2, 5, 20),),
    ),
}
every_mode = pytest.mark.parametrize("mode", ["exact", "int8"])
RECURRENT = (nn.LSTM, nn.GRU)
# Inputs of several tensors, unbatched ones and PackedSequences are below.
TENSORS = [
    *("Linear", "Linear 1-D", "Conv1d 1", "Conv1d 3", "Conv2d", "Embedding", "LSTM"),
    *("LSTM projected", "LSTM unbatched", "GRU", "LSTMCell", "GRUCell"),
    *("Linear of a class", "Linear normed", "Other", "Bilinear", "Conv3d", "RNN"),
    *("ConvTranspose1d", "ConvTranspose2d", "EmbeddingBag", "RNNCell"),
    *("MultiheadAttention", "MultiheadAttention separate"),
]
FREE = {  # dimensions whose size a traced layer does not fix
    "Linear": (0, 1),
    "Conv1d 1": (0, 2),
    "Conv1d 3": (0, 2),
    "Conv2d": (0, 2, 3),
    "Embedding": (0, 1),
    "LSTM": (0,),
    "Linear of a class": (0, 1),
    "Linear normed": (0, 1),
    "Other": (0, 1),
    "Conv3d": (0, 2),
    "ConvTranspose1d": (0, 2),
    "EmbeddingBag": (0,),
    "RNN": (0,),
    "LSTM projected": (0, 1),
    "LSTM unbatched": (0,),
    "GRU": (1,),
    "LSTMCell": (),
    "GRUCell": (),
}


def other_values(args):
    """Other activations of the same sizes."""
    return mapped(lambda t: torch.randn_like(t), args)


def other_sizes(name, args):
    """Other activations, of other sizes where they are free."""
    x, *rest = args
    shape = [n + 2 * (i in FREE.get(name, ())) for i, n in enumerate(x.shape)]
    if x.is_floating_point():
        return (torch.randn(shape), *rest)
    return (torch.randint(20, shape), *rest)


@pytest.mark.parametrize("name", TENSORS)
@every_mode
@pytest.mark.filterwarnings("ignore")
def test_torch_jit_trace(name, mode, tmp_path):
    kind = KINDS[name]
    packed, _ = pair(kind.layer)
    args = kind.inputs()
    with in_mode(packed, mode), torch.no_grad():
        traced = torch.jit.trace(packed, args)
        torch.jit.save(traced, tmp_path / "traced.pt")
        for form in (traced, torch.jit.load(tmp_path / "traced.pt")):
            for given in (args, other_values(args), other_sizes(name, args)):
                close(form(*given), packed(*given), atol=0, rtol=0)


@pytest.mark.parametrize("cell", RECURRENT)
@pytest.mark.filterwarnings("ignore")
def test_torch_jit_trace_of_a_sequence(cell):
    class Sequence(nn.Module):
        def __init__(self):
            super().__init__()
            self.packed = pair(lambda: cell(20, 33))[0]

        def forward(self, data, sizes):
            out, state = self.packed(nn.utils.rnn.PackedSequence(data, sizes))
            return (out.data, *flat(state))

    run = Sequence()
    sizes = torch.tensor([3, 2, 2, 1])
    with torch.no_grad():
        traced = torch.jit.trace(run, (torch.randn(8, 20), sizes))
        given = torch.randn(8, 20), sizes
        close(traced(*given), run(*given), atol=0, rtol=0)


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("strict", [True, False])
@every_mode
@pytest.mark.filterwarnings("ignore")
def test_torch_export(name, strict, mode):
    kind = KINDS[name]
    packed, _ = pair(kind.layer)
    args = kind.inputs()
    x, *rest = args
    free = {i: torch.export.Dim.AUTO for i in FREE.get(name, ())}
    fixed = mapped(lambda t: None, tuple(rest))
    with in_mode(packed, mode), torch.no_grad():
        same = torch.export.export(packed, args, strict=strict).module()
        for given in (args, other_values(args)):
            close(same(*given), packed(*given), atol=0, rtol=0)
        dynamic = torch.export.export(
            packed, args, dynamic_shapes=((free, *fixed),), strict=strict
        ).module()
        given = other_sizes(name, args)
        close(dynamic(*given), packed(*given), atol=0, rtol=0)


@pytest.mark.parametrize("name", TENSORS)
@every_mode
@pytest.mark.filterwarnings("ignore")
def test_torch_compile(name, mode):
    kind = KINDS[name]
    packed, _ = pair(kind.layer)
    args = kind.inputs()
    # Dynamo does not follow nn.LSTM, nn.GRU and nn.RNN: it calls them; and it does not
    # know a packed weight in the code of a class that is not PyTorch's.
    whole = not isinstance(packed.layer, (*RECURRENT, nn.RNN)) and name != "Other"
    torch._dynamo.reset()
    compiled = torch.compile(packed, backend="aot_eager", fullgraph=whole)
    with torch.no_grad():
        for now in (mode, "exact", "int8"):
            with in_mode(packed, now):
                for given in (args, other_values(args), other_sizes(name, args)):
                    close(compiled(*given), packed(*given), atol=0, rtol=0)


@pytest.mark.parametrize("name", ["Linear", "Conv1d 1", "Conv1d 3", "Conv2d"])
@pytest.mark.filterwarnings("ignore")
def test_gradients_of_compiled_layers(name):
    kind = KINDS[name]
    packed, _ = pair(kind.layer)
    (x,) = kind.inputs()
    torch._dynamo.reset()
    compiled = torch.compile(packed, backend="aot_eager", fullgraph=True)
    for mode in ("exact", "int8"):
        found = []
        with in_mode(packed, mode):
            for form in (compiled, packed):
                given = x.clone().requires_grad_()
                packed.zero_grad()
                out = form(given)
                out.pow(2).sum().backward()
                found.append((out.detach(), given.grad, packed.layer.bias.grad))
        close(*found, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", TENSORS)
@every_mode
@pytest.mark.parametrize("tracing", ["real", "fake"])
def test_make_fx(name, mode, tracing):
    kind = KINDS[name]
    packed, _ = pair(kind.layer)
    args = kind.inputs()
    with in_mode(packed, mode), torch.no_grad():
        traced = make_fx(
            packed, tracing_mode=tracing, _allow_non_fake_inputs=tracing == "fake"
        )(*args)
        for given in (args, other_values(args)):
            close(traced(*given), packed(*given), atol=0, rtol=0)


@every_mode
@pytest.mark.filterwarnings("ignore")
def test_functional_uses_are_traced_too(mode):
    packed, _ = pair(lambda: nn.Embedding(30, 16))

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = packed.layer

        def forward(self, ids):
            return F.linear(self.embedding(ids), self.embedding.weight)

    ids, model = torch.tensor([[1, 29, 3]]), Tied()
    other = torch.tensor([[7, 7, 0]])
    with in_mode(model, mode), torch.no_grad():
        torch._dynamo.reset()
        for form in (
            torch.jit.trace(model, ids),
            torch.export.export(model, (ids,), strict=False).module(),
            torch.compile(model, backend="aot_eager"),
        ):
            close(form(other), model(other), atol=0, rtol=0)


def test_buffers_of_a_traced_model_are_its_own():
    packed, _ = pair(lambda: nn.Linear(20, 33))
    x = torch.randn(4, 20)
    with torch.no_grad():
        exported = torch.export.export(packed, (x,)).module()
        before = exported(x)
        for module in packed.modules():
            if isinstance(module, PackedWeight):
                module.codebook.neg_()
        twice = copy.deepcopy(exported)
        close(twice(x), exported(x), atol=0, rtol=0)
        assert not torch.equal(packed(x), before)


PARTS = [
    torch.randint(256, (192 * 5,), dtype=torch.uint8),
    torch.linspace(-1, 1, 32),
    torch.rand(33) + 0.1,
]


@pytest.mark.parametrize(
    "operator, arguments",
    [
        ("packed_linear", lambda x: (x, *PARTS, torch.ones(33), 33, 20, False)),
        ("packed_linear", lambda x: (x, *PARTS, None, 33, 20, True)),
        ("packed_values", lambda x: (*PARTS, 33, 20)),
        ("packed_rows", lambda x: (torch.tensor([[1, 32]]), *PARTS, 33, 20)),
        (
            "packed_steps",
            lambda x: (
                *("LSTM", torch.randn(5, 3, 33 - 1), torch.zeros(3, 20)),
                *(torch.zeros(3, 8), *matrices(20), None, None, False, False, False),
            ),
        ),
        (
            "packed_steps",
            lambda x: (
                *("GRU", torch.randn(7, 33), torch.zeros(3, 11), None),
                *([torch.randn(33, 11)], [], torch.ones(33)),
                *(torch.tensor([3, 3, 1]), True, False, False),
            ),
        ),
    ],
)
def test_operators(operator, arguments):
    torch.library.opcheck(
        getattr(torch.ops.espnet_gq, operator).default,
        arguments(torch.randn(4, 20)),
        test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
    )


def matrices(outputs):
    return [torch.randn(32, outputs)], [torch.randn(outputs, 8)]


@pytest.mark.parametrize("at", range(4))
def test_operators_refuse_operands_of_several_devices(at):
    """The implementation for "meta" would return memory that nothing was written to."""
    operands = [torch.randn(4, 20), *PARTS]
    operands[at] = operands[at].to("meta")
    with pytest.raises(RuntimeError, match="cpu, meta; allowed: one device"):
        torch.ops.espnet_gq.packed_linear(*operands, None, 33, 20, False)
    if at:
        with pytest.raises(RuntimeError, match="cpu, meta; allowed: one device"):
            torch.ops.espnet_gq.packed_values(*operands[1:], 33, 20)
        with pytest.raises(RuntimeError, match="cpu, meta; allowed: one device"):
            torch.ops.espnet_gq.packed_rows(torch.tensor([1]), *operands[1:], 33, 20)
