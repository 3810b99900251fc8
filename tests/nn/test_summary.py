"""What is quantized, what is left float and why, is said."""

import logging

import pytest
import torch
from torch import nn

import espnet_gq
from espnet_gq import GQConfigError, summarize


def prepared(module, **conf):
    return espnet_gq.prepare(module, {"bits": 4, **conf})


def left(module):
    return {p.name: (p.kind, p.reason) for p in summarize(module).left}


class Kernel(nn.Module):
    """Computes with a parameter that is not called weight."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.ones(8, 8))

    def forward(self, x):
        return x @ self.kernel


class OwnNorm(nn.Module):
    """A normalization by its name."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8, 8))

    def forward(self, x):
        return x / x.norm() * self.weight


class Registered(nn.Linear):
    """Refuses classes that extend it."""

    def __init_subclass__(cls):
        raise RuntimeError(f"no {cls.__name__}")


class Clash(nn.Linear):
    """Has a member of the name that one of QuantizedLayer has."""

    quantized = False


def scripted():
    return torch.jit.script(nn.Sequential(nn.Linear(8, 8)))


OTHERS = {
    "Kernel": (Kernel, "kernel of Kernel has no quantized form"),
    "ParameterList": (
        lambda: nn.ParameterList([torch.ones(8, 8)]),
        "0 of ParameterList has no quantized form",
    ),
    "LayerNorm": (lambda: nn.LayerNorm((8, 8)), "a normalization"),
    "OwnNorm": (OwnNorm, "a normalization"),
    "Registered": (lambda: Registered(8, 8), "the class Registered cannot be extended"),
    "Clash": (lambda: Clash(8, 8), "Clash has a member 'quantized' of its own"),
    "RecursiveScriptModule": (scripted, "a scripted module cannot be changed"),
    "ParametrizationList": (
        lambda: nn.utils.parametrizations.orthogonal(nn.Linear(8, 8)),
        "an orthogonal matrix is computed from it",
    ),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_kinds_without_a_quantized_form_are_named(kind, caplog):
    make, why = OTHERS[kind]
    module = nn.Sequential(nn.Linear(8, 8), make())
    with caplog.at_level(logging.INFO):
        prepared(module)
    reasons = left(module)
    matrices = [n for n, p in module[1].named_parameters() if p.dim() > 1]
    for name in matrices:
        named, reason = reasons[f"1.{name}"]
        assert named == kind and named in caplog.text and reason in caplog.text
        assert why in reason
    assert matrices and set(summarize(module).quantized) == {"0.weight"}
    levels = {r.levelname for r in caplog.records if r.message.startswith("GQ: ")}
    assert levels == {"WARNING"}


@pytest.mark.parametrize("kind", OTHERS)
def test_nothing_quantized_is_an_error_that_says_why(kind):
    with pytest.raises(GQConfigError, match="nothing can be quantized; left float: "):
        prepared(nn.Sequential(OTHERS[kind][0](), nn.ReLU()))


@pytest.mark.parametrize("kind", OTHERS)
def test_a_rule_for_what_cannot_be_quantized_names_its_kind(kind):
    module = nn.Sequential(nn.Linear(8, 8), OTHERS[kind][0]())
    with pytest.raises(GQConfigError, match=f"matches only .*{kind}.* cannot be quan"):
        prepared(module, rules=[{"pattern": "1*", "bits": 3}])


def test_an_empty_module_and_one_of_vectors():
    for module in (nn.ReLU(), nn.LayerNorm(4)):
        with pytest.raises(GQConfigError, match="nothing can be quantized"):
            prepared(module)


def test_lazy_layers_stay_float():
    module = prepared(nn.Sequential(nn.Linear(8, 8), nn.LazyLinear(4)))
    assert left(module)["1.weight"][1] == "its shape is known only after the first call"
    with pytest.raises(GQConfigError, match="'2' matches no layer"):
        prepared(
            nn.Sequential(nn.Linear(8, 8), nn.LazyLinear(4)),
            rules=[{"pattern": "2", "bits": 3}],
        )


def test_what_rules_leave_float_is_no_surprise(caplog):
    module = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    rules = [{"pattern": "1", "float": True}]
    with caplog.at_level(logging.INFO):
        prepared(module, rules=rules)
    assert "64 parameters of Linear (rule '1')" in caplog.text
    assert {r.levelname for r in caplog.records} == {"INFO"}
    prepared(nn.Sequential(nn.Linear(8, 8)), rules=[{"pattern": "*", "float": True}])


def test_figures_are_those_of_the_parameters():
    module = nn.Sequential(
        *(nn.Linear(8, 8), nn.Conv1d(8, 4, 3), nn.BatchNorm1d(4), nn.LSTM(4, 8))
    )
    module.register_buffer("matrix", torch.zeros(100, 100))
    total = sum(p.numel() for p in module.parameters())
    matrices = sum(p.numel() for p in module.parameters() if p.dim() > 1)
    prepared(module, rules=[{"pattern": "0", "bits": 2}])
    summary = summarize(module)
    assert summary.total == total and summary.share == matrices / total
    bits = (64 * 2 + (matrices - 64) * 4) / matrices
    assert summary.effective_bits == pytest.approx(bits)
    assert summarize(espnet_gq.harden(module)).share == 0.0
    assert summarize(nn.Linear(2, 2)).total == 6


@pytest.mark.parametrize(
    "conf", [{}, {"bits": 3}, {"rules": [{"pattern": "0", "bits": 2}]}]
)
def test_a_second_preparation_is_refused(conf):
    module = prepared(nn.Sequential(nn.Linear(8, 8), nn.LSTM(8, 8)))
    with pytest.raises(GQConfigError, match="0 is quantized already, to 4 bits"):
        prepared(module, **conf)
    with pytest.raises(GQConfigError, match="the module is quantized already"):
        prepared(prepared(nn.Linear(8, 8)), **conf if "rules" not in conf else {})


def test_the_rest_can_be_prepared_later():
    module = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    prepared(module[0])
    rules = [{"pattern": "0", "float": True}]
    espnet_gq.prepare(module, {"bits": 2, "rules": rules})
    assert summarize(module).quantized == {"0.weight": 4, "1.weight": 2}


@pytest.mark.parametrize(
    "conf",
    [
        {"bits": 5},
        {"bits": 2},
        {"method": "lloyd_max"},
        {"bits": 5, "annealing": {"start": 2, "end": 4}},
    ],
)
def test_an_annealing_without_a_length_is_refused(conf):
    module = espnet_gq.prepare(nn.Linear(8, 8), conf)
    module(torch.randn(2, 8)).sum().backward()
    with pytest.raises(ValueError, match=r"annealing: \{steps: N\}"):
        espnet_gq.advance(module)
    assert module.weight_quantizer.step == 0


@pytest.mark.parametrize("method", ["uniform", "lsq", "dkm", "ternary"])
def test_methods_that_do_not_anneal_need_no_length(method):
    module = espnet_gq.prepare(nn.Linear(8, 8), {"bits": 2, "method": method})
    module(torch.randn(2, 8)).sum().backward()
    espnet_gq.advance(module)
    assert module.weight_quantizer.step == 1


class WithBuffers(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3, bias=False)
        self.norm = nn.BatchNorm1d(5)
        self.register_buffer("matrix", torch.ones(7, 7))
        self.register_buffer("hidden", torch.ones(9), persistent=False)


def test_parameters_and_buffers_are_counted():
    net = prepared(WithBuffers(), bits=5, rules=[{"pattern": "b", "bits": 2}])
    found = summarize(net)
    assert sum(found.numel.values()) == 35
    assert (found.total, found.buffers) == (4 * 5 + 5 + 5 * 3 + 10, 49 + 11)
    assert found.effective_bits == (20 * 5 + 15 * 2) / 35
    plain = summarize(WithBuffers())
    assert (plain.total, plain.buffers, plain.effective_bits) == (50, 60, 32.0)
    shared = WithBuffers()
    shared.b.weight = nn.Parameter(torch.ones(5, 4))
    shared.a.weight = shared.b.weight
    assert summarize(prepared(shared)).buffers == 60  # no buffer has two names


def test_a_name_alone_does_not_count_as_re_parametrized():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.pos_bias_v = nn.Parameter(torch.zeros(2, 3))
            self.query = nn.Linear(3, 3)

    found = prepared(Attention())
    assert (
        left(found)["pos_bias_v"][1] == "pos_bias_v of Attention has no quantized form"
    )
    assert set(summarize(found).quantized) == {"query.weight"}
