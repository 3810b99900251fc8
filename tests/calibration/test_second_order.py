"""Weights chosen by second-order error, against float64 products with the inputs."""

import pytest
import torch

from espnet_gq.calibration.codebooks import fit_codebook, nearest, weights
from espnet_gq.calibration.plan import channel_options
from espnet_gq.calibration.second_order import (
    Method,
    Statistics,
    choose,
    inverse_factor,
    round_with_feedback,
)

PLAIN = Method(tune=False, sweeps=0, bias=False)


def problem(rows, columns, groups=1, seed=0):
    """Correlated inputs with a mean, and weights whose rows differ in scale."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = normal(groups, 600, columns) @ normal(groups, columns, columns) + 0.5
    w = normal(groups * rows, columns) * (0.1 + normal(groups * rows, 1).abs())
    statistics = Statistics(groups, columns)
    for part in x.split(200, dim=1):
        statistics.add(part)
    return x, w.float(), statistics


def output_error(x, w, hard, bias=None):
    """||X (hard - w) + bias|| / ||X w||, computed with the inputs themselves."""
    groups, _, columns = x.shape
    rows, difference = (
        t.double().view(groups, -1, columns).transpose(1, 2) for t in (w, hard - w)
    )
    wrong = x @ difference
    if bias is not None:
        wrong = wrong + bias.view(groups, 1, -1)
    return float(wrong.norm() / (x @ rows).norm())


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("rows, columns, groups", [(24, 40, 1), (1, 9, 16), (3, 7, 4)])
def test_the_error_is_below_that_of_the_nearest_centroids(bits, rows, columns, groups):
    x, w, statistics = problem(rows, columns, groups)
    stored = fit_codebook(w, channel_options(bits))
    rounded = output_error(x, w, weights(nearest(w, stored), stored))
    errors = []
    for method in (PLAIN, Method(sweeps=0, bias=False), Method(bias=False), Method()):
        found = choose(w, stored, statistics, method, has_bias=True)
        assert found.indices.shape == w.shape and int(found.indices.max()) < 2**bits
        error = output_error(x, w, weights(found.indices, found.stored), found.bias)
        assert error == pytest.approx(found.error, rel=1e-3)
        assert rounded == pytest.approx(found.nearest_error, rel=1e-3)
        errors.append(error)
    plain, tuned, descended, with_bias = errors
    # The damping is in what tuning and descent improve, not in this error.
    assert plain < rounded and with_bias < 0.97 * plain
    assert tuned < 1.02 * plain and descended < 1.02 * tuned


def test_uncorrelated_inputs_leave_nothing_to_make_up_for():
    _, w, statistics = problem(6, 10)
    statistics.gram = torch.eye(10, dtype=torch.float64)[None]
    stored = fit_codebook(w, channel_options(3))
    found = choose(w, stored, statistics, PLAIN)
    assert torch.equal(found.indices, nearest(w, stored))


def test_rounding_with_feedback_is_that_of_the_textbook():
    """Column by column on the inverse of the Hessian that is left, float64."""
    x, w, statistics = problem(5, 12)
    stored = fit_codebook(w, channel_options(3))
    c, scale = stored.codebook.double(), stored.scale.double()[:, 0]
    h = statistics.gram[0] + torch.eye(12, dtype=torch.float64)
    left, expected = w.double().clone(), []
    for j in range(12):
        inverse = torch.linalg.inv(h[j:, j:])
        index = (left[:, j : j + 1] - scale[:, None] * c).abs().argmin(1)
        error = left[:, j] - scale * c[index]
        left[:, j:] -= error[:, None] * inverse[0] / inverse[0, 0]
        expected.append(index)
    found = round_with_feedback(
        w.double()[None], inverse_factor(h[None]), scale[None], c
    )
    assert torch.equal(found[0], torch.stack(expected, 1))


def test_one_scale_for_a_tensor_stays():
    x, w, statistics = problem(8, 16)
    stored = fit_codebook(w, {**channel_options(4), "granularity": "tensor"})
    found = choose(w, stored, statistics)
    assert torch.equal(found.stored.log_scale, stored.log_scale)
    assert found.error < found.nearest_error


def test_a_uniform_grid_is_kept():
    x, w, statistics = problem(8, 16)
    stored = fit_codebook(w, {**channel_options(4), "method": "uniform"})
    found = choose(w, stored, statistics)
    assert torch.equal(found.stored.codebook, stored.codebook)
    assert found.error < found.nearest_error


def test_an_input_that_is_always_zero():
    x, w, statistics = problem(8, 16)
    statistics.gram[:, 3] = statistics.gram[:, :, 3] = statistics.total[:, 3] = 0
    found = choose(w, fit_codebook(w, channel_options(4)), statistics, Method(), True)
    assert found.error < found.nearest_error


@pytest.mark.parametrize("bias", [False, True])
def test_an_input_that_never_changes(bias):
    """Such as the embedded prompt of a model whose prompt is always empty."""
    torch.manual_seed(0)
    w, x = torch.randn(8, 64), torch.randn(1, 64).relu() * torch.logspace(-3, 3, 64)
    statistics = Statistics(1, 64)
    for _ in range(6):
        statistics.add(x.expand(1, 7, 64))
    stored = fit_codebook(w, channel_options(4))
    found = choose(w, stored, statistics, Method(), bias)
    assert found.error < found.nearest_error
    hard = weights(found.indices, found.stored)
    assert (w - hard).norm() < 1.5 * (w - weights(nearest(w, stored), stored)).norm()


def test_inputs_that_are_not_finite_are_refused():
    _, w, statistics = problem(4, 6)
    statistics.gram[0, 1, 1] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinite"):
        choose(w, fit_codebook(w, channel_options(4)), statistics)
