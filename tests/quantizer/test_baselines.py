"""The methods that GQ is measured against, each held to its own formula."""

import math

import pytest
import torch

from espnet_gq.native.library import HARD, SOFT
from espnet_gq.quantizer import Annealing
from espnet_gq.quantizer.baselines.dkm import iteration
from espnet_gq.quantizer.baselines.lloyd import lloyd_max
from espnet_gq.quantizer.function import fake_quantize
from espnet_gq.quantizer.general import SLOPE_ALPHA
from espnet_gq.quantizer.methods import METHODS, create, own_options
from espnet_gq.quantizer.mulaw import codebook

ALLOWED = [
    (method, bits)
    for method in METHODS
    for bits in (1, 2, 3, 5, 8)
    if not (method == "lsq" and bits == 1) and not (method == "ternary" and bits > 2)
]


def weights(seed=0, shape=(12, 40)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.1


def fitted(method, bits, w, **options):
    quantizer = create(method, bits=bits, channels=w.shape[0], **options)
    quantizer.to(w.dtype)
    quantizer.fit(w)
    quantizer.total_steps = 100
    return quantizer


def trained(quantizer, w, grad):
    """Return the weights in use and the gradients for w and ln s."""
    leaf = w.clone().requires_grad_()
    out = quantizer.train()(leaf)
    out.backward(grad)
    return out.detach(), leaf.grad, quantizer.log_scale.grad


@pytest.mark.parametrize("method, bits", ALLOWED)
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_evaluation_is_the_nearest_centroid(method, bits, granularity):
    w = weights()
    quantizer = fitted(method, bits, w, granularity=granularity).eval()
    z = quantizer.centroids().reshape(-1, quantizer.normalized_centroids().numel())
    assert z.shape[1] <= 2 ** bits and (z.diff(dim=1) > 0).all()
    z = z.expand(len(w), -1)
    distance = (w[:, :, None] - z[:, None, :]).abs()
    expected = distance.min(-1).values
    torch.testing.assert_close((quantizer(w) - w).abs(), expected, atol=1e-6, rtol=0)
    taken = z.gather(1, quantizer.indices(w).long())
    torch.testing.assert_close(quantizer(w), taken, atol=1e-6, rtol=0)


@pytest.mark.parametrize("method, bits", ALLOWED)
@pytest.mark.parametrize(
    "w",
    [torch.zeros(4, 4), torch.full((4, 4), 0.3), torch.full((1, 1), -2.0)],
    ids=["zero", "constant", "single"],
)
def test_degenerate_tensors_train(method, bits, w):
    quantizer = fitted(method, bits, w)
    out, grad, _ = trained(quantizer, w, torch.ones_like(w))
    assert torch.isfinite(out).all() and torch.isfinite(grad).all()
    # A layer of zeros gets the scale of one that is about to learn.
    largest = w.abs().max() if w.any() else w.shape[1] ** -0.5
    assert (quantizer.eval()(w) - w).abs().max() <= largest + 1e-6


@pytest.mark.parametrize("method, bits", ALLOWED)
def test_state_dict_restores_it(method, bits):
    w = weights()
    quantizer = fitted(method, bits, w)
    quantizer.step = 40
    trained(quantizer, w, torch.ones_like(w))
    other = create(method, bits=bits, channels=len(w))
    other.load_state_dict(quantizer.state_dict())
    assert other.step == 40 and other.fitted
    assert torch.equal(other.eval()(w), quantizer.eval()(w))
    assert torch.equal(trained(other, w, w)[1], trained(quantizer, w, w)[1])


def test_the_uniform_grid_passes_gradients_straight_through():
    w = weights()
    quantizer = fitted("uniform", 3, w)
    z = quantizer.centroids()
    torch.testing.assert_close(z.diff(), z.diff()[:1].expand(7))
    errors = [
        (quantizer.scale().item() * f * torch.linspace(-1, 1, 8) - w[..., None])
        .abs()
        .min(-1)
        .values.square()
        .sum()
        for f in (0.95, 1.0, 1.05)
    ]
    assert errors[1] <= min(errors)
    grad = torch.randn_like(w)
    out, found, _ = trained(quantizer, w, grad)
    assert torch.equal(out, quantizer.eval()(w))
    inside = w.abs() <= z[-1] + z.diff()[0] / 2
    assert not inside.all()
    assert torch.equal(found, torch.where(inside, grad, 0.0))
    assert not any(p.requires_grad for p in quantizer.parameters())


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_lsq_is_its_equations(bits):
    w = weights().double()
    quantizer = fitted("lsq", bits, w)
    qn, qp = 2 ** (bits - 1), 2 ** (bits - 1) - 1
    s = float(quantizer.log_scale.exp())
    assert s == pytest.approx(2 * float(w.abs().mean()) / math.sqrt(qp), rel=1e-6)
    with torch.no_grad():
        quantizer.log_scale.sub_(1.0)  # so that some weights lie outside
    s = float(quantizer.log_scale.exp())
    grad = torch.randn_like(w)
    out, dw, ds = trained(quantizer, w, grad)
    total = 0.0
    for i, v in enumerate(w.flatten().tolist()):
        ratio = v / s
        level = min(max(math.floor(ratio + 0.5), -qn), qp)
        inside = -qn < ratio < qp
        assert float(out.flatten()[i]) == pytest.approx(level * s, rel=1e-9, abs=1e-12)
        g = float(grad.flatten()[i])
        assert float(dw.flatten()[i]) == pytest.approx(g if inside else 0.0)
        bound = -qn if ratio <= -qn else qp
        total += g * (level - ratio if inside else bound)
    scale = 1 / math.sqrt(w.numel() * qp)
    assert float(ds) == pytest.approx(total * s * scale, rel=1e-9)  # d / d ln s


def test_lsq_and_ternary_say_which_widths_they_know():
    with pytest.raises(ValueError, match="allowed: 2 to 8"):
        create("lsq", bits=1, channels=2)
    with pytest.raises(ValueError, match="allowed: 1 .* 2"):
        create("ternary", bits=3, channels=2)


@pytest.mark.parametrize("bits, levels", [(1, [-1.0, 1.0]), (2, [-1.0, 0.0, 1.0])])
def test_binary_and_ternary_weights(bits, levels):
    w = weights().double()
    quantizer = fitted("ternary", bits, w, granularity="tensor")
    assert quantizer.normalized_centroids().tolist() == levels
    s = float(quantizer.log_scale.exp())
    if bits == 1:
        assert s == pytest.approx(float(w.abs().mean()), rel=1e-6)
    q = torch.tensor(levels)[
        (w[..., None] - s * torch.tensor(levels)).abs().argmin(-1)
    ].double()
    if bits == 2:  # the scale of least squared error for its own assignment
        assert s == pytest.approx(float((w * q).sum() / q.square().sum()), rel=1e-3)
    grad = torch.randn_like(w)
    out, dw, ds = trained(quantizer, w, grad)
    torch.testing.assert_close(out, s * q)
    assert torch.equal(dw, grad)
    assert float(ds) == pytest.approx(
        float((grad * q).sum()) * s / math.sqrt(w.numel()), rel=1e-6
    )


def test_lloyd_max_centroids_are_the_means_between_their_thresholds():
    x = weights().flatten().double()
    c = lloyd_max(x, torch.linspace(-0.3, 0.3, 8))
    nearest = (x[:, None] - c).abs().argmin(1)
    means = torch.stack([x[nearest == j].mean() for j in range(8)])
    torch.testing.assert_close(means, c, rtol=1e-6, atol=1e-9)


def penalty(quantizer, w):
    """The docstring's R, by a loop."""
    c = quantizer.codebook.double() * float(quantizer.log_scale.exp())
    total = torch.zeros((), dtype=torch.float64)
    for v in w.flatten():
        j = min(max(int((c <= v.detach()).sum()) - 1, 0), len(c) - 2)
        gap = c[j + 1] - c[j]
        t = (v - c[j]) / gap
        total = total + (gap / 2 / math.pi) ** 2 * (1 - torch.cos(2 * math.pi * t))
    return quantizer.strength * quantizer.progress * total


def test_the_pull_to_lloyd_max_centroids_is_the_gradient_of_the_penalty():
    w = weights(shape=(4, 10)).double()
    quantizer = fitted("lloyd_max", 3, w, strength=0.7)
    quantizer.step = 50
    c = quantizer.codebook.double() * float(quantizer.log_scale.exp())
    w = w.clamp(float(c[0]), float(c[-1]))
    leaf = w.clone().requires_grad_()
    penalty(quantizer, leaf).backward()
    torch.testing.assert_close(quantizer.pull(w), leaf.grad)
    grad = torch.randn_like(w)
    out, found, _ = trained(quantizer, w, grad)
    assert torch.equal(out, w)  # the forward pass is float
    torch.testing.assert_close(found, grad + leaf.grad)
    middle = 0.5 * (c[1:] + c[:-1])
    for z in (c, middle):
        torch.testing.assert_close(
            quantizer.pull(z[None]), torch.zeros(1, len(z)).double()
        )
    near = c[3] + 1e-4 * (c[4] - c[3])
    expected = 0.7 * 0.5 * (near - c[3])
    torch.testing.assert_close(quantizer.pull(near.view(1, 1))[0, 0], expected)


def test_the_compressor_sets_weights_on_centroids_every_k_steps():
    w = weights().requires_grad_()
    quantizer = fitted("lloyd_max", 2, w, compress_every=3).train()
    hard = quantizer.quantize(w.detach())
    for step in range(1, 4):
        quantizer.advance()
        quantizer(w).sum().backward()
        assert torch.equal(w.detach(), hard) == (step == 3)
    with torch.no_grad():
        w.add_(0.001)
    quantizer(w)
    assert not torch.equal(w.detach(), hard)  # once a step


def test_dkm_is_its_equations():
    w = weights(shape=(3, 7)).double()
    quantizer = fitted("dkm", 2, w, iterations=1)
    c = quantizer.codebook.clone()
    s, tau = float(quantizer.log_scale.exp()), quantizer.tau
    assert tau == pytest.approx(0.1 * 2 / 3)
    attention = [
        [math.exp(-abs(v / s - float(z)) / tau) for z in c] for v in w.flatten()
    ]
    attention = [[a / sum(row) for a in row] for row in attention]
    moved = [
        sum(row[j] * float(v) / s for row, v in zip(attention, w.flatten()))
        / sum(row[j] for row in attention)
        for j in range(4)
    ]
    expected = [s * sum(a * z for a, z in zip(row, moved)) for row in attention]
    out = quantizer.train()(w.clone().requires_grad_())
    torch.testing.assert_close(out.flatten(), torch.tensor(expected).double())
    torch.testing.assert_close(quantizer.codebook, torch.tensor(sorted(moved)).double())


def test_rows_of_next_to_nothing_have_no_say_in_dkm_centroids():
    w = weights(shape=(5, 40)).double()
    w[1], w[3] = w[1] * 1e-12, w[3] * 1e-9
    quantizer = fitted("dkm", 2, w, granularity="channel")
    rows = [0, 2, 4]
    other = fitted("dkm", 2, w[rows], granularity="channel")
    other.codebook = quantizer.codebook.clone()
    other.log_scale.data = quantizer.log_scale.data[rows]
    used, expected = quantizer.train()(w), other.train()(w[rows])
    torch.testing.assert_close(quantizer.codebook, other.codebook)
    torch.testing.assert_close(used[rows], expected)


@pytest.mark.parametrize("bits", [1, 3])
def test_dkm_gradients_stay_small_beside_a_row_of_zeros(bits):
    w = weights(shape=(6, 40)).clone()
    w[2], w[4] = 0.0, w[4] * 1e-12
    quantizer = fitted("dkm", bits, w, granularity="channel").train()
    w.requires_grad_()
    quantizer(w).sum().backward()
    assert torch.isfinite(w.grad).all() and float(w.grad.abs().max()) < 100


def test_dkm_gradient():
    w = weights(shape=(2, 5)).double().requires_grad_()
    c, tau = torch.linspace(-0.2, 0.2, 4).double(), 0.03

    def weights_in_use(x):
        attention, moved = iteration(x, c, tau, mass)
        return attention @ moved

    for mass in (None, torch.tensor([[1.0], [0.3]]).double()):
        assert torch.autograd.gradcheck(weights_in_use, (w,))


@pytest.mark.parametrize("forward", ["soft", "hard", "own gradient"])
@pytest.mark.parametrize("bits", [1, 2, 4, 5])
def test_free_centroids_on_the_curve_are_gq(bits, forward):
    w = weights().double()
    annealing = Annealing(start=6.0, end=6.0)
    options = dict(annealing=annealing, granularity="tensor")
    options["forward"] = "hard" if forward == "hard" else "soft"
    own = forward == "own gradient"
    free = fitted("free", bits, w, **options, own_gradient=own)
    log_mu = torch.tensor([1.5]).double()
    with torch.no_grad():
        free.codebook.copy_(codebook(log_mu, bits, torch.float64)[0])
    grad = torch.randn_like(w)
    out, dw, _ = trained(free, w, grad)
    leaf = w.clone().requires_grad_()
    mode, slope = HARD if forward == "hard" else SOFT, None
    if forward == "soft":
        slope = SLOPE_ALPHA
    gq = fake_quantize(leaf, free.log_scale, log_mu, bits, mode, 6.0, slope_alpha=slope)
    gq.backward(grad)
    torch.testing.assert_close(out, gq.detach())
    torch.testing.assert_close(dw, leaf.grad)


@pytest.mark.parametrize("forward", ["soft", "hard"])
def test_free_centroids_get_their_gradient(forward):
    w = weights(shape=(3, 6)).double()
    options = dict(annealing=Annealing(start=3.0, end=3.0), forward=forward)
    free = fitted("free", 2, w, **options, own_gradient=forward == "soft").train()
    free(w).square().sum().backward()
    step, numeric = 1e-6, []
    for j in range(4):
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                free.codebook[j] += sign * step
                sides.append(free(w).square().sum())
                free.codebook[j] -= sign * step
        numeric.append((sides[0] - sides[1]) / (2 * step))
    expected = torch.stack(numeric) / math.sqrt(w.numel())
    torch.testing.assert_close(free.codebook.grad, expected, rtol=1e-5, atol=1e-8)


def test_options_of_a_method():
    assert list(own_options("dkm")) == ["temperature", "iterations", "tolerance"]
    assert list(own_options("lloyd_max")) == ["strength", "compress_every"]
    own = {"own_gradient": False}
    assert own_options("gq") == {"mu": None, "train_mu": True, "fit": True, **own}
    assert own_options("free") == own
    assert all(own_options(m) == {} for m in ("uniform", "lsq"))
