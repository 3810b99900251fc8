"""Layers under several names, and tensors that several layers share."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import espnet_gq
from espnet_gq import GQConfigError
from espnet_gq.nn.kinds import is_matrix
from espnet_gq.nn.prepare import quantized_weights
from espnet_gq.packing import load_packed, load_state_dict, save, unpack_state_dict


class TwoNames(nn.Module):
    """A layer under two names, and in a list that is no module."""

    def __init__(self, make=lambda: nn.Linear(8, 8)):
        super().__init__()
        self.a = make()
        self.b = self.a
        self.known = [self.a]
        self.call = lambda x: first(self.known[0](x))

    def forward(self, x):
        return first(self.b(first(self.a(x)))) + first(self.known[0](x))


def first(out):
    return out[0] if isinstance(out, tuple) else out


class TiedProjection(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.output = nn.Linear(8, 10)
        self.output.weight = self.embedding.weight

    def forward(self, x):
        return self.output(self.embedding(x))


class InContainers(nn.Module):
    """One layer in a list, a dict and a deeper module."""

    def __init__(self):
        super().__init__()
        layer = nn.Linear(8, 8)
        self.list = nn.ModuleList([layer, nn.Linear(8, 8), layer])
        self.dict = nn.ModuleDict({"x": nn.Sequential(nn.ReLU(), layer)})

    def forward(self, x):
        for layer in (*self.list, self.dict["x"]):
            x = layer(x)
        return x


class TiedRecurrence(nn.Module):
    """Two LSTM layers with one recurrent matrix."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.LSTM(8, 8), nn.LSTM(8, 8)
        self.b.weight_hh_l0 = self.a.weight_hh_l0

    def forward(self, x):
        return self.b(self.a(x)[0])[0]


class Own(nn.Linear):
    """A class with a forward of its own."""

    def forward(self, x):
        return F.linear(x, self.weight.to(x.dtype), self.bias)


class TiedClasses(nn.Module):
    """An embedding, a linear layer and one of another class, with one tensor."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.output, self.own = nn.Linear(8, 10), Own(8, 10)
        self.output.weight = self.own.weight = self.embedding.weight

    def forward(self, x):
        y = self.embedding(x)
        return self.output(y) + self.own(y) + F.linear(y, self.own.weight)


class TiedAttention(nn.Module):
    """Two attentions with one matrix, and one attention called twice."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.MultiheadAttention(8, 2), nn.MultiheadAttention(8, 2)
        self.b.in_proj_weight = self.a.in_proj_weight
        self.b.out_proj.weight = self.a.out_proj.weight

    def forward(self, x):
        x = self.a(x, x, x)[0]
        x = self.b(x, x, x)[0]
        return self.a(x, x[:3], x[:3])[0]


class Everything(nn.Module):
    """A module used twice, a tied embedding, weight norm and PyTorch's Transformer."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.twice = nn.Linear(8, 8)
        self.conv = nn.utils.parametrizations.weight_norm(
            nn.Conv1d(8, 8, 3, padding=1), dim=2
        )
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.output = nn.Linear(8, 10)
        self.output.weight = self.embedding.weight

    def forward(self, x):
        y = self.embedding(x).unflatten(0, (2, 5))
        y = self.twice(torch.tanh(self.twice(y)))
        y = self.conv(y.transpose(1, 2)).transpose(1, 2)
        padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
        y = self.encoder(y, src_key_padding_mask=padding)
        # The fast path returns zeros at padded positions, the slow path other values.
        return self.output(y.masked_fill(padding[..., None], 0.0)).flatten(0, 1)


VECTORS, LABELS = torch.randn(5, 8), torch.arange(10)


class Attending(nn.MultiheadAttention):
    def __init__(self):
        super().__init__(8, 2)

    def forward(self, x):
        return super().forward(x, x, x, need_weights=False)


def normed():
    return nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))


CASES = {
    "linear": (TwoNames, VECTORS),
    "convolution": (lambda: TwoNames(lambda: nn.Conv1d(8, 8, 1)), VECTORS.T),
    "lstm": (lambda: TwoNames(lambda: nn.LSTM(8, 8)), VECTORS),
    "gru cell": (lambda: TwoNames(lambda: nn.GRUCell(8, 8)), VECTORS),
    "containers": (InContainers, VECTORS),
    "tied projection": (TiedProjection, LABELS),
    "tied recurrence": (TiedRecurrence, VECTORS),
    "tied classes": (TiedClasses, LABELS),
    "tied attention": (TiedAttention, VECTORS),
    "attention": (lambda: TwoNames(Attending), VECTORS),
    "normed": (lambda: TwoNames(normed), VECTORS),
    "everything": (Everything, LABELS),
}


def trained(make, x, bits=2):
    torch.manual_seed(0)
    module = espnet_gq.prepare(make(), {"bits": bits, "annealing": {"steps": 5}})
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    for _ in range(5):
        optimizer.zero_grad()
        module(x).square().mean().backward()
        optimizer.step()
        espnet_gq.advance(module)
    return module.eval()


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("case", CASES)
def test_all_forms_agree(case, bits, tmp_path):
    make, x = CASES[case]
    module = trained(make, x, bits)
    hardened = espnet_gq.harden(module)
    expected = module(x)
    assert torch.equal(hardened(x), expected)
    assert torch.equal(copy.deepcopy(module)(x), expected)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            for form in (module, hardened):
                torch.testing.assert_close(form(x), expected, rtol=1e-5, atol=1e-5)
    packed = espnet_gq.pack(module)
    save(packed, tmp_path / "packed.pth")
    for source in (packed, tmp_path / "packed.pth"):
        for model in (make(), espnet_gq.prepare(make(), {"bits": bits})):
            with torch.no_grad():
                found = load_packed(model, source).eval()(x)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    plain = make().eval()
    plain.load_state_dict(hardened.state_dict())
    assert torch.equal(plain(x), expected)
    prepared = espnet_gq.prepare(make(), {"bits": bits}).eval()
    prepared.load_state_dict(
        unpack_state_dict(load_state_dict(tmp_path / "packed.pth"))
    )
    torch.testing.assert_close(prepared(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_what_is_shared_stays_shared(case):
    make, x = CASES[case]
    module = trained(make, x)
    names = [name for name, _ in make().named_parameters()]
    assert [n for n, _ in module.named_parameters() if "quantizer" not in n] == names
    assert [n for n, _ in espnet_gq.harden(module).named_parameters()] == names
    steps = {q.step for _, _, q in quantized_weights(module)}
    assert steps == {5}  # advanced once a step
    numel = sum(p.numel() for p in make().parameters())
    assert espnet_gq.summarize(module).total == numel


@pytest.mark.parametrize("case", ["everything", "tied attention", "tied classes"])
def test_nothing_is_left_float(case):
    module = CASES[case][0]()
    matrices = {n for n, p in module.named_parameters() if is_matrix(p)}
    espnet_gq.prepare(module, {"bits": 4})
    assert set(espnet_gq.summarize(module).quantized) == matrices


def test_a_shared_tensor_is_stored_once():
    tied = trained(TiedProjection, LABELS)
    alone = trained(lambda: nn.Embedding(10, 8), LABELS)
    sizes = [espnet_gq.pack(m)["data"].numel() for m in (tied, alone)]
    assert sizes[0] == sizes[1] + 4 * 10  # the bias
    assert espnet_gq.pack(tied)["version"] == 3
    assert espnet_gq.pack(alone)["version"] == 1
    model = load_packed(TiedProjection(), espnet_gq.pack(tied))
    assert model.output.weight is model.embedding.weight


@pytest.mark.parametrize("settings", [{"bits": 3}, {"float": True}])
def test_rules_that_disagree_on_one_tensor(settings):
    rules = [{"pattern": "a", "bits": 4}, {"pattern": "b", **settings}]
    with pytest.raises(GQConfigError, match="a and b are one tensor"):
        espnet_gq.prepare(TwoNames(), {"bits": 5, "rules": rules})


@pytest.mark.parametrize("pattern", ["a", "b", "*"])
def test_a_rule_for_one_name_holds_for_all(pattern):
    module = TwoNames()
    rules = [{"pattern": pattern, "bits": 3}]
    espnet_gq.prepare(module, {"bits": 5, "rules": rules})
    assert [q.bits for _, _, q in quantized_weights(module)] == [3]


class Outsider(nn.Module):
    """Computes with a tensor of another layer, as its own parameter."""

    def __init__(self, weight):
        super().__init__()
        self.kernel = weight

    def forward(self, x):
        return F.linear(x, self.kernel)


class WithOutsider(nn.Module):
    def __init__(self):
        super().__init__()
        self.own, self.first = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second = Outsider(self.first.weight)

    def forward(self, x):
        return self.second(self.first(self.own(x)))


def test_a_tensor_that_an_unknown_module_uses_stays_float():
    module = trained(WithOutsider, VECTORS)
    assert [name for name, _, _ in quantized_weights(module)] == ["own.weight"]
    left = {p.name: p.reason for p in espnet_gq.summarize(module).left}
    assert "first.weight" in left
    assert torch.equal(espnet_gq.harden(module)(VECTORS), module(VECTORS))


def test_modules_that_refer_to_each_other():
    class Child(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 8)

    parent = nn.Module()
    parent.child = Child()
    parent.child.parent = parent
    espnet_gq.prepare(parent, {"bits": 3})
    assert [name for name, _, _ in quantized_weights(parent)] == ["child.layer.weight"]
