"""Soft and hard assignment against the exact reference, at every bit width."""

import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_gq.native.library import HARD, SOFT
from espnet_gq.quantizer.assignment import truncation_bound
from espnet_gq.quantizer.function import (
    fake_quantize,
    hard_indices,
    hard_quantize,
)
from espnet_gq.quantizer.mulaw import codebook


def centroids(log_mu, bits):
    return codebook(log_mu, bits, torch.float64)[0]


def make(seed, rows, cols, per_channel, mu, dtype=torch.float64, spread=0.5):
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(rows, cols, generator=generator, dtype=torch.float64) * spread
    log_scale = torch.linspace(-0.3, 0.3, rows if per_channel else 1).double()
    log_mu = torch.tensor([mu], dtype=torch.float64).log()
    return w.to(dtype), log_scale.to(dtype), log_mu.to(dtype)


WEIGHTS = dict(
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 5),
    cols=st.integers(1, 40),
    bits=st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8]),
    alpha=st.floats(1.0, 60.0),
    mu=st.floats(0.01, 500.0),
    spread=st.floats(0.01, 3.0),
    per_channel=st.booleans(),
)


@settings(max_examples=200, deadline=None)
@given(**WEIGHTS)
def test_soft_is_exact_within_the_documented_bound(
    seed, rows, cols, bits, alpha, mu, spread, per_channel
):
    w, log_scale, log_mu = make(seed, rows, cols, per_channel, mu, spread=spread)
    exact = reference.soft(w, log_scale, log_mu, bits, alpha)
    ours = fake_quantize(w, log_scale, log_mu, bits, SOFT, alpha)
    scale = log_scale.exp().view(-1, 1)
    assert ((ours - exact).abs() <= scale * (truncation_bound(alpha) + 1e-9)).all()


@settings(max_examples=200, deadline=None)
@given(**WEIGHTS)
def test_slope_is_exact_within_the_documented_bound(
    seed, rows, cols, bits, alpha, mu, spread, per_channel
):
    w, log_scale, log_mu = make(seed, rows, cols, per_channel, mu, spread=spread)
    c = reference.codebook(log_mu, bits)
    scale = log_scale.exp().view(-1, 1)
    k = torch.searchsorted(c, w / scale, right=True).sub(1).clamp(0, len(c) - 2)
    gap = c[k + 1] - c[k]

    def slope(function, *args):
        leaf = w.clone().requires_grad_()
        return torch.autograd.grad(function(leaf, *args).sum(), leaf)[0] * gap

    exact = slope(reference.soft, log_scale, log_mu, bits, alpha)
    ours = slope(fake_quantize, log_scale, log_mu, bits, SOFT, alpha)
    # Beyond OVERSHOOT gaps outside, the slope is taken as zero.
    bound = truncation_bound(alpha, slope=True) + 4 * alpha * 2.72 ** (-9 * alpha)
    assert ((ours - exact).abs() <= bound + 1e-9).all()


@pytest.mark.parametrize("bits", [1, 2, 4, 5, 8])
@pytest.mark.parametrize("per_channel", [False, True])
def test_gradients_match_the_exact_reference(bits, per_channel):
    # At alpha = 12 the truncation bound is 1e-20: what differs is an error.
    w, log_scale, log_mu = make(0, 6, 50, per_channel, 12.0)
    weights = torch.randn(w.shape, generator=torch.Generator().manual_seed(1)).double()
    grads = []
    for function, mode in ((reference.soft, ()), (fake_quantize, (SOFT,))):
        leaves = [t.clone().requires_grad_() for t in (w, log_scale, log_mu)]
        (function(*leaves, bits, *mode, 12.0) * weights).sum().backward()
        grads.append([leaf.grad for leaf in leaves])
    for ours, exact in zip(grads[1], grads[0]):
        torch.testing.assert_close(ours, exact, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("bits", [1, 2, 4, 5, 8])
def test_gradcheck(bits):
    w, log_scale, log_mu = make(3, 3, 7, True, 5.0)
    leaves = [t.clone().requires_grad_() for t in (w, log_scale, log_mu)]
    assert torch.autograd.gradcheck(
        lambda *t: fake_quantize(*t, bits, SOFT, 6.0), leaves, eps=1e-7, atol=1e-5
    )


@settings(max_examples=100, deadline=None)
@given(**WEIGHTS)
def test_hard_is_the_nearest_centroid(
    seed, rows, cols, bits, alpha, mu, spread, per_channel
):
    w, log_scale, log_mu = make(seed, rows, cols, per_channel, mu, spread=spread)
    exact = reference.hard(w, log_scale, log_mu, bits)
    ours = hard_quantize(w, log_scale, centroids(log_mu, bits))
    torch.testing.assert_close(ours, exact, rtol=1e-9, atol=1e-12)
    index = hard_indices(w, log_scale, centroids(log_mu, bits)).long()
    z = log_scale.exp().view(-1, 1) * reference.codebook(log_mu, bits)
    z = z.expand(rows, -1)
    torch.testing.assert_close(z.gather(1, index), ours, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("bits", [1, 2, 5, 8])
def test_soft_becomes_hard_in_the_limit(bits):
    w, log_scale, log_mu = make(0, 8, 200, False, 8.0)
    target = hard_quantize(w, log_scale, centroids(log_mu, bits))
    gaps = []
    for alpha in (3.0, 10.0, 30.0, 80.0):
        soft = fake_quantize(w, log_scale, log_mu, bits, SOFT, alpha)
        gaps.append(float((soft - target).norm() / target.norm()))
    assert gaps == sorted(gaps, reverse=True)
    # Away from the decision thresholds nothing of the gap is left.
    c = reference.codebook(log_mu, bits)
    x = w / log_scale.exp()
    thresholds = (c[1:] + c[:-1]) / 2
    k = torch.searchsorted(c, x, right=True).sub(1).clamp(0, len(c) - 2)
    far = (x - thresholds[k]).abs() > 0.25 * (c[k + 1] - c[k])
    assert far.any()
    torch.testing.assert_close(soft[far], target[far], rtol=0, atol=1e-12)


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_hard_forward_has_the_documented_surrogate_gradient(bits):
    w, log_scale, log_mu = make(0, 4, 60, True, 6.0)
    alpha = 3.0
    leaves = [t.clone().requires_grad_() for t in (w, log_scale, log_mu)]
    out = fake_quantize(*leaves, bits, HARD, alpha)
    torch.testing.assert_close(
        out, hard_quantize(w, log_scale, centroids(log_mu, bits))
    )
    out.sum().backward()
    c = reference.codebook(log_mu, bits)
    x = w / log_scale.exp().view(-1, 1)
    k = torch.searchsorted(c, x, right=True).sub(1).clamp(0, len(c) - 2)
    gaps = (x - c[k]) / (c[k + 1] - c[k])
    away = torch.minimum(gaps.abs(), (gaps - 1).abs())
    p = torch.sigmoid(alpha * (2 * away - 1))
    slope = torch.where(away <= 0.5, 2 * alpha * p * (1 - p), 0.0)
    outside = (gaps < 0) | (gaps > 1)
    assert (slope[outside] > 0).any() and (slope[outside] == 0).any()
    torch.testing.assert_close(leaves[0].grad, slope)
    torch.testing.assert_close(leaves[1].grad, out.detach().sum(1))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_that_are_not_finite(value, dtype):
    w = torch.tensor([[0.1, value, -0.2]], dtype=dtype)
    out = hard_quantize(w, torch.zeros(1), centroids(torch.zeros(1), 3))
    assert torch.isfinite(out[0, [0, 2]]).all()
    assert torch.isnan(out[0, 1]) == (value != value)


def test_saved_memory_is_the_weight_alone():
    w = torch.randn(256, 1024, requires_grad=True)
    saved = {}

    def pack(tensor):
        saved[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = fake_quantize(w, torch.zeros(1), torch.zeros(1), 8, SOFT, 10.0)
        torch.nn.functional.linear(torch.randn(1, 1024), out)
    # The weight, the quantized weight that the product needs, and crumbs.
    assert sum(saved.values()) <= 2.01 * w.numel() * 4
