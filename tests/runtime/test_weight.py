"""Packed products against float64, on every instruction set of this machine."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_gq.native import library
from espnet_gq.quantizer.mulaw import codebook
from espnet_gq.runtime import PackedWeight, available, instruction_sets, reference
from espnet_gq.runtime.layout import to_planes

ISAS = list(enumerate(instruction_sets()))
compiled = pytest.mark.skipif(not available(), reason="the kernels were not built")


def make(rows, cols, bits, scales=1, seed=0, log_mu=2.0):
    g = torch.Generator().manual_seed(seed)
    index = torch.randint(2**bits, (rows, cols), generator=g, dtype=torch.uint8)
    c, _ = codebook(torch.tensor(log_mu), bits)
    scale = torch.rand(scales, generator=g) + 0.1
    weight = PackedWeight(to_planes(index, bits), (rows, cols), c, scale)
    return weight, reference.dense(index, c.double(), scale.double())


def product(weight, x, bias, mode, threads, isa):
    out = torch.full((x.shape[0], weight.rows), torch.nan)
    weight.mode = mode
    library.check(
        library.loaded().gq_linear(
            *(weight.description(bias), x.data_ptr(), x.shape[0], out.data_ptr()),
            *(weight.mode_number, threads, isa),
        )
    )
    return out


def int8_bound(weight, dense, x):
    """Largest error of rounding centroids and activations by half a unit each."""
    x = x.double()
    scale = weight.scale.double().repeat_interleave(weight.rows // weight.scale.numel())
    unit = reference.round_activations(x.float())[1].double()
    code = weight.codes()[1]
    per_weight = x.abs().sum(1, keepdim=True) + weight.cols * unit / 2
    largest = dense.abs().sum(1)
    return unit / 2 * largest + per_weight * scale * code / 2


@compiled
@pytest.mark.parametrize("isa, name", ISAS, ids=[n for _, n in ISAS])
@settings(max_examples=60, deadline=None)
@given(
    rows=st.sampled_from([0, 1, 2, 15, 16, 17, 48, 100]),
    cols=st.sampled_from([0, 1, 3, 31, 32, 33, 130, 257]),
    m=st.sampled_from([0, 1, 2, 3, 4, 7, 8, 9, 17, 40]),
    bits=st.integers(1, 8),
    threads=st.sampled_from([1, 2]),
    by_row=st.booleans(),
    log_mu=st.sampled_from([-7.0, 2.0, 6.0]),
    seed=st.integers(0, 2**16),
)
def test_products_are_right(
    isa, name, rows, cols, m, bits, threads, by_row, log_mu, seed
):
    scales = rows if by_row and rows else 1
    weight, dense = make(rows, cols, bits, scales, seed, log_mu)
    x, bias = torch.randn(m, cols), torch.randn(rows)
    expected = x.double() @ dense.t() + bias
    size = x.double().abs() @ dense.abs().t() + bias.abs()
    exact = product(weight, x, bias, "exact", threads, isa)
    assert ((exact - expected).abs() <= 1e-5 * size + 1e-30).all()
    int8 = product(weight, x, bias, "int8", threads, isa)
    if cols:
        bound = int8_bound(weight, dense, x) + 1e-5 * size
        assert ((int8 - expected).abs() <= bound).all()
    plain = reference.int8_linear(
        x, weight.index(), weight.codebook, weight.scale, bias
    )
    assert ((int8 - plain).abs() <= 1e-5 * size + 1e-30).all()


@compiled
@pytest.mark.parametrize("isa, name", ISAS, ids=[n for _, n in ISAS])
def test_large_products_on_two_threads(isa, name):
    for bits, m in ((5, 1), (8, 33), (3, 200), (7, 300)):
        weight, dense = make(515, 770, bits, 515)
        x = torch.randn(m, 770)
        size = x.double().abs() @ dense.abs().t()
        for mode, bound in (("exact", 1e-5 * size), ("int8", None)):
            two = product(weight, x, None, mode, 2, isa)
            assert torch.equal(two, product(weight, x, None, mode, 1, isa))
            bound = int8_bound(weight, dense, x) if bound is None else bound
            assert ((two - x.double() @ dense.t()).abs() <= bound).all()


@compiled
@pytest.mark.parametrize("isa, name", ISAS, ids=[n for _, n in ISAS])
@pytest.mark.parametrize("mode", ["exact", "int8"])
def test_what_is_not_finite_stays_in_its_row(isa, name, mode):
    weight, _ = make(20, 40, 5)
    x = torch.randn(11, 40)
    clean = product(weight, x, None, mode, 1, isa)
    x[3, 7], x[9, 0] = torch.nan, torch.inf
    out = product(weight, x, None, mode, 1, isa)
    bad = torch.tensor([3, 9])
    assert not out[bad].isfinite().any()
    good = [i for i in range(11) if i not in (3, 9)]
    assert torch.equal(out[good], clean[good])


@compiled
@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 70),
    cols=st.integers(1, 200),
    m=st.integers(1, 20),
    bits=st.integers(1, 8),
    seed=st.integers(0, 2**31),
)
def test_int8_gives_the_same_bits_on_every_instruction_set(rows, cols, m, bits, seed):
    weight, _ = make(rows, cols, bits, scales=rows, seed=seed)
    g = torch.Generator().manual_seed(seed)
    x, bias = torch.randn(m, cols, generator=g), torch.randn(rows, generator=g)
    first, *others = [product(weight, x, bias, "int8", 1, isa) for isa, _ in ISAS]
    for other in others:
        assert torch.equal(first, other)


@pytest.mark.parametrize("mode", ["exact", "int8"])
def test_without_the_library_results_are_the_same(monkeypatch, mode):
    weight, dense = make(50, 70, 6, 50)
    weight.mode = mode
    x, bias, rows = torch.randn(2, 9, 70), torch.randn(50), torch.tensor([[3], [49]])
    with torch.no_grad():
        native = weight.linear(x, bias), weight.dense(), weight.embed(rows)
        monkeypatch.setattr(library, "loaded", lambda: None)
        plain = weight.linear(x, bias), weight.dense(), weight.embed(rows)
    for a, b in zip(native, plain):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(plain[1], dense.float())


def test_copies_and_conversions_keep_the_weight():
    weight, dense = make(33, 20, 5)
    x = torch.randn(4, 20)
    expected = weight.linear(x)
    for other in (copy.deepcopy(weight), copy.deepcopy(weight).double().float()):
        assert torch.equal(other.linear(x), expected)
        assert other.planes.data_ptr() != weight.planes.data_ptr()
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        other = copy.deepcopy(weight).to(dtype)
        assert other.dtype == other.linear(x.to(dtype)).dtype == dtype
        with pytest.raises(RuntimeError, match="same dtype"):
            other.linear(x)
        assert torch.equal(other.to(torch.float32).linear(x), expected)
    x.requires_grad_()
    weight.linear(x).sum().backward()
    torch.testing.assert_close(x.grad, dense.float().sum(0).expand(4, 20))


def test_wrong_sizes_are_named():
    weight, _ = make(33, 20, 5)
    with pytest.raises(RuntimeError, match=r"\(4, 19\).*allowed: \(\.\.\., 20\)"):
        weight.linear(torch.zeros(4, 19))
    with pytest.raises(IndexError, match="allowed: 0 to 32"):
        weight.embed(torch.tensor([33]))
    with pytest.raises(ValueError, match="allowed: 2, 4"):
        PackedWeight(weight.planes, (33, 20), torch.zeros(3), torch.ones(1))
    with pytest.raises(ValueError, match="bytes"):
        PackedWeight(weight.planes[:-1], (33, 20), weight.codebook, torch.ones(1))
    with pytest.raises(ValueError, match="do not divide"):
        PackedWeight(weight.planes, (33, 20), weight.codebook, torch.ones(2))


@pytest.mark.parametrize("mode", ["exact", "int8"])
def test_the_operator_has_a_fake_form_and_compiles(mode):
    weight, _ = make(33, 20, 5)
    weight.mode = mode
    x, bias = torch.randn(4, 20), torch.randn(33)
    arguments = (x, *weight.parts(), bias, 33, 20)
    torch.library.opcheck(
        torch.ops.espnet_gq.packed_linear.default,
        (*arguments, mode == "int8"),
        test_utils=("test_schema", "test_faketensor"),
    )

    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = weight

        def forward(self, x):
            return self.weight.linear(x, bias)

    exported = torch.export.export(Module(), (x,))
    assert torch.equal(exported.module()(x), weight.linear(x, bias))
