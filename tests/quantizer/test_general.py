"""One quantizer's life: fit, anneal, evaluate, save, load, average."""

import copy
import math

import pytest
import torch

from espnet_gq.quantizer import Annealing, GeneralQuantizer
from espnet_gq.quantizer.fit import fit
from espnet_gq.quantizer.function import hard_quantize
from espnet_gq.quantizer.general import SLOPE_ALPHA
from espnet_gq.quantizer.mulaw import codebook


def weights(seed=0, shape=(32, 48)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.1


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_evaluation_uses_at_most_two_to_the_bits_values(bits, granularity):
    quantizer = GeneralQuantizer(bits, 32, granularity)
    quantizer.fit(weights())
    out = quantizer.eval()(weights())
    rows = out if granularity == "channel" else out.view(1, -1)
    assert max(row.unique().numel() for row in rows) <= 2**bits
    centroids = quantizer.centroids().view(-1, 2**bits)
    assert all(torch.isin(row, z).all() for row, z in zip(rows, centroids))


def test_fit_finds_the_least_squared_error_at_one_bit():
    w = weights()
    log_scale, _ = fit(w, 1, scales=1)
    assert float(log_scale.exp()) == pytest.approx(float(w.abs().mean()), rel=1e-5)


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_fit_beats_the_naive_start_on_heavy_tails(bits):
    w = torch.distributions.Laplace(0.0, 0.1).sample((64, 64))
    log_scale, log_mu = fit(w, bits, scales=1)
    fitted = (hard_quantize(w, log_scale, codebook(log_mu, bits)[0]) - w).square().sum()
    naive_scale = w.abs().max().log().view(1)
    for mu in (1e-3, 255.0):
        naive = hard_quantize(
            w, naive_scale, codebook(torch.tensor([mu]).log(), bits)[0]
        )
        assert fitted < (naive - w).square().sum()


@pytest.mark.parametrize(
    "w",
    [
        torch.zeros(4, 4),
        torch.full((4, 4), 0.3),
        torch.full((1, 1), -2.0),
        weights() * 1e-30,
        weights() * 1e30,
    ],
    ids=["zero", "constant", "single", "tiny", "huge"],
)
@pytest.mark.parametrize("bits", [1, 2, 5, 8])
def test_degenerate_tensors_train(w, bits):
    quantizer = GeneralQuantizer(bits, w.shape[0])
    leaf = w.clone().requires_grad_()
    quantizer(leaf).sum().backward()
    assert torch.isfinite(leaf.grad).all()
    assert torch.isfinite(quantizer.log_scale.grad).all()
    # Where the training begins with nothing, the scale is that of a new layer.
    largest = w.abs().max() if w.abs().max() > 1e-29 else w.shape[1] ** -0.5
    assert (quantizer.eval()(w) - w).abs().max() <= largest + 1e-20


@pytest.mark.parametrize("bits", [1, 2, 5, 8])
def test_zeros_that_no_training_follows_stay_zeros(bits):
    w = torch.zeros(4, 6)
    assert GeneralQuantizer(bits, 4).eval()(w).abs().max() <= 1e-29


def test_fitting_weights_that_are_not_finite_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        GeneralQuantizer(4, 2)(torch.tensor([[1.0], [math.nan]]))


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_a_given_curvature_and_a_start_at_the_peak(granularity):
    w = weights()
    peak = w.abs().max() if granularity == "tensor" else w.abs().amax(1)
    naive = GeneralQuantizer(3, 32, granularity, mu=255, fit=False)
    fitted = GeneralQuantizer(3, 32, granularity, mu=255)
    free = GeneralQuantizer(3, 32, granularity)
    errors = [float((q(w) - w).square().sum()) for q in (free, fitted, naive)]
    for quantizer in (naive, fitted):
        assert quantizer.log_mu.exp().item() == pytest.approx(255, rel=1e-5)
    torch.testing.assert_close(naive.log_scale.exp(), peak.expand_as(naive.log_scale))
    hard = [float((q.quantize(w) - w).square().sum()) for q in (free, fitted, naive)]
    assert hard[0] < hard[1] < hard[2] and min(errors) > 0


def test_a_curvature_that_is_not_trained():
    quantizer = GeneralQuantizer(5, 32, train_mu=False)
    quantizer(weights()).square().sum().backward()
    assert quantizer.log_mu.grad is None and quantizer.log_scale.grad is not None
    assert set(quantizer.state_dict()) == set(GeneralQuantizer(5, 32).state_dict())


@pytest.mark.parametrize("options", [dict(mu=0), dict(mu=9000), dict(fit=False)])
def test_a_start_that_cannot_be_is_refused(options):
    with pytest.raises(ValueError, match="allowed"):
        GeneralQuantizer(5, 32, **options)


@pytest.mark.parametrize("bits", [4, 5, 8])
def test_a_soft_pass_hardens_and_its_weights_go_on_learning(bits):
    annealing = Annealing(start=3.0, end=50.0, steps=10)
    quantizer = GeneralQuantizer(bits, 32, annealing=annealing)
    w, gaps, slopes = weights(), [], []
    for _ in range(11):
        leaf = w.clone().requires_grad_()
        out = quantizer(leaf)
        out.sum().backward()
        gaps.append(float((out.detach() - quantizer.quantize(w)).norm()))
        inside = w.abs() < quantizer.scale().item()
        slopes.append(float(leaf.grad[inside].min()))
        quantizer.advance()
    assert all(later < earlier for earlier, later in zip(gaps, gaps[1:]))
    assert gaps[-1] < 0.3 * gaps[0]
    assert min(slopes) > 0.4
    own = GeneralQuantizer(bits, 32, annealing=annealing, own_gradient=True)
    own.step = 10
    leaf = w.clone().requires_grad_()
    out = own(leaf)
    out.sum().backward()
    assert (leaf.grad < 0.01).float().mean() > 0.5


@pytest.mark.parametrize("bits", [1, 4])
def test_a_soft_pass_has_the_slope_of_a_hard_one(bits):
    given = weights(seed=1)

    def gradients(forward, alpha):
        annealing = Annealing(start=alpha, end=alpha)
        quantizer = GeneralQuantizer(bits, 32, forward=forward, annealing=annealing)
        leaf = weights().requires_grad_()
        quantizer(leaf).backward(given)
        return leaf.grad, quantizer.log_scale.grad, quantizer.log_mu.grad

    soft, hard = gradients("soft", 20.0), gradients("hard", SLOPE_ALPHA)
    for ours, expected in zip(soft, hard):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("fit", [True, False])
def test_evaluation_sees_every_change(fit):
    quantizer, w = GeneralQuantizer(4, 32).eval(), weights()
    if fit:
        quantizer.fit(w)

    def differs_after(change):
        before = quantizer(w).clone()
        change()
        assert not torch.equal(quantizer(w), before)
        assert torch.equal(quantizer(w), quantizer.fitted_to(w).quantize(w))

    with torch.no_grad():
        differs_after(lambda: w.mul_(0.5))
    differs_after(lambda: w.data.neg_())  # no version of w counts this one
    if fit:
        differs_after(lambda: quantizer.log_scale.data.add_(0.1))
        differs_after(lambda: quantizer.log_mu.data.add_(1.0))
    else:
        assert not quantizer.fitted and not quantizer.log_scale.any()


def test_annealing_runs_from_start_to_end():
    schedule = Annealing(start=3, end=50, steps=100)
    assert schedule.alpha(0, 100) == 3
    assert schedule.alpha(50, 100) == pytest.approx(math.sqrt(150))
    assert schedule.alpha(100, 100) == pytest.approx(50)
    assert schedule.alpha(1000, 100) == pytest.approx(50)
    linear = Annealing(start=2, end=4, curve="linear", warmup_steps=10)
    assert linear.alpha(10, 20) == 2
    assert linear.alpha(15, 20) == 3


@pytest.mark.parametrize(
    "options", [dict(start=0), dict(start=5, end=2), dict(curve="x"), dict(steps=0)]
)
def test_annealing_refuses_what_it_cannot_do(options):
    with pytest.raises(ValueError, match="allowed"):
        Annealing(**options)


def test_frequency_and_warm_up_leave_other_steps_float():
    annealing = Annealing(steps=20, warmup_steps=2)
    quantizer = GeneralQuantizer(5, 32, annealing=annealing, every=3)
    w = weights()
    quantized = []
    for _ in range(9):
        out = quantizer(w)
        quantized.append(not torch.equal(out, w))
        assert out.requires_grad
        quantizer.advance()
    assert quantized == [step in (2, 5, 8) for step in range(9)]


def test_state_survives_saving():
    quantizer = GeneralQuantizer(5, 32, annealing=Annealing(steps=7))
    quantizer(weights())
    for _ in range(3):
        quantizer.advance()
    other = GeneralQuantizer(5, 32)
    other.load_state_dict(copy.deepcopy(quantizer.state_dict()))
    assert (other.step, other.total_steps, other.fitted) == (3, 7, True)
    assert other.alpha == quantizer.alpha
    assert torch.equal(other(weights()), quantizer(weights()))


def test_a_fresh_state_loaded_over_itself_is_still_not_fitted():
    # What --init_param does: the model's own values where the file has none. ESPnet's
    # --init overwrites parameters before that.
    quantizer = GeneralQuantizer(5, 32)
    torch.nn.init.normal_(quantizer.log_scale)
    quantizer.load_state_dict(quantizer.state_dict())
    assert not quantizer.fitted


def test_another_bit_width_is_refused_in_one_sentence():
    state = GeneralQuantizer(8, 32, "tensor").state_dict()
    with pytest.raises(ValueError, match="8 bits in the checkpoint and 4"):
        GeneralQuantizer(4, 32, "tensor").load_state_dict(state, strict=False)


def test_average_of_checkpoints_is_a_valid_state():
    states = []
    for seed in range(3):
        quantizer = GeneralQuantizer(5, 32, annealing=Annealing(steps=9))
        quantizer(weights(seed))
        quantizer.advance()
        states.append(quantizer.state_dict())
    # As ESPnet's average_nbest_models: integers summed, the rest averaged.
    average = {k: sum(s[k] for s in states) for k in states[0]}
    for key, value in average.items():
        if not str(value.dtype).startswith("torch.int"):
            average[key] = value / 3
    quantizer = GeneralQuantizer(5, 32)
    quantizer.load_state_dict(average)
    assert (quantizer.step, quantizer.total_steps, quantizer.fitted) == (1, 9, True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights(dtype):
    quantizer = GeneralQuantizer(5, 32)
    w = weights().to(dtype).requires_grad_()
    out = quantizer(w)
    out.float().sum().backward()
    assert out.dtype == dtype and w.grad.dtype == dtype
    assert quantizer.log_scale.dtype == torch.float32


def test_mathematics_is_float32_under_autocast():
    quantizer = GeneralQuantizer(5, 32)
    w = weights()
    plain = quantizer(w)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(quantizer(w), plain)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("scales", [1, 24])
def test_a_large_tensor_is_fitted_as_well_by_a_histogram(bits, scales, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(24, 4096, generator=generator) ** 3

    def error():
        log_scale, log_mu = fit(w, bits, scales)
        hard = hard_quantize(w, log_scale, codebook(log_mu, bits, torch.float32)[0])
        return float((w - hard).square().sum())

    exact = error()
    monkeypatch.setattr("espnet_gq.quantizer.fit.LARGE", w.numel() - 1)
    monkeypatch.setattr("espnet_gq.quantizer.fit.CHUNK", 5000)
    assert error() == pytest.approx(exact, rel=0.001)
    w[3, 5] = float("inf")
    with pytest.raises(ValueError, match="NaN or infinite"):
        fit(w, bits, scales)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_second_derivatives_are_refused(dtype):
    quantizer = GeneralQuantizer(4, 8, annealing=Annealing(steps=10))
    w = torch.nn.Parameter(torch.randn(8, 6, dtype=dtype))
    (grad,) = torch.autograd.grad(quantizer(w).square().sum(), w, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()
