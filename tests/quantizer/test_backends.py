"""Every backend, on every instruction set, against plain PyTorch in float64."""

import functools
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_gq import native
from espnet_gq.native.library import HARD, SOFT
from espnet_gq.quantizer import assignment, function, fused
from espnet_gq.quantizer.function import scale_pair
from espnet_gq.quantizer.mulaw import codebook

compiled = pytest.mark.skipif(
    not native.available(), reason="the native library was not built"
)
ISAS = list(enumerate(native.instruction_sets()))
PASSES = {
    "PyTorch": (assignment.forward, assignment.backward),
    **{
        name: (
            functools.partial(fused.forward, isa=isa),
            functools.partial(fused.backward, isa=isa),
        )
        for isa, name in ISAS
    },
}
"""Triton's are in `test_triton_kernel.py`: its interpreter takes a process."""


def inputs(seed, rows, cols, bits, per_row, mu=8.0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(rows, cols, generator=generator) * 0.4
    grad = torch.randn(rows, cols, generator=generator)
    log_scale = torch.randn(rows if per_row else 1, generator=generator) * 0.3
    scale, inverse = scale_pair(log_scale, torch.float32)
    c, dc = codebook(torch.tensor([mu]).log(), bits)
    return [t.to(dtype) for t in (w, grad, scale, inverse, c, dc)]


@pytest.mark.parametrize("name", PASSES)
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(0, 9),
    cols=st.sampled_from([0, 1, 3, 15, 16, 17, 33, 64, 130, 5000]),
    bits=st.integers(1, 8),
    per_row=st.booleans(),
    alpha=st.floats(1.0, 80.0),
    mu=st.floats(0.01, 1000.0),
)
def test_results(name, seed, rows, cols, bits, per_row, alpha, mu):
    forward, backward = PASSES[name]
    w, grad, scale, inverse, c, dc = inputs(seed, rows, cols, bits, per_row, mu)
    if per_row and rows == 0:
        return
    hard = forward(w, scale, inverse, c, HARD)
    assert torch.equal(hard, assignment.hard_forward(w, scale, inverse, c))
    # Soft values and gradients against float64: nearly all of the difference is the
    # rounding of the position between two centroids, alpha * 2^-23 / gap of it.
    exact = [t.double() for t in (w, grad, scale, inverse, c, dc)]
    soft = forward(w, scale, inverse, c, SOFT, alpha)
    expected = assignment.forward(exact[0], *exact[2:5], SOFT, alpha)
    difference = (soft.double() - expected).abs()
    far = difference > 2e-5 + 1e-4 * expected.abs()
    # A weight midway between two centroids may be given the other one's window.
    assert far.sum() <= 2
    midway = 2e-5 + 2.0 * assignment.truncation_bound(alpha) * exact[2]
    assert (difference <= midway + 1e-4 * expected.abs()).all()
    for mode in (SOFT, HARD):
        ours = backward(grad, w, scale, inverse, c, dc, mode, alpha)
        theirs = assignment.backward(exact[1], exact[0], *exact[2:], mode, alpha)
        # A weight at a kink of the coordinate may be put on its other side.
        close = torch.isclose(ours[0].double(), theirs[0], rtol=1e-2, atol=1e-2)
        assert close.double().mean() >= 0.99 or w.numel() < 200 and (~close).sum() <= 2
        size = float(w.numel()) ** 0.5 + 1
        assert ((ours[1] - theirs[1]).abs() <= 0.05 * size).all()
        assert abs(float(ours[2] - theirs[2])) <= 0.05 * size


@compiled
@pytest.mark.parametrize("mode", [SOFT, HARD])
@pytest.mark.parametrize("shape", [(64, 4096), (3, 30000), (9000, 7)])
def test_results_do_not_depend_on_the_threads(mode, shape):
    w, grad, scale, inverse, c, dc = inputs(0, *shape, 5, shape[0] > 3)
    results = []
    threads = torch.get_num_threads()
    library = native.loaded()
    try:
        for team in (None, native.torch_team()):
            library.gq_set_team(team)
            for count in (1, 2, 3):
                torch.set_num_threads(count)
                results.append(
                    [
                        fused.forward(w, scale, inverse, c, mode, 7.0),
                        *fused.backward(grad, w, scale, inverse, c, dc, mode, 7.0),
                    ]
                )
    finally:
        torch.set_num_threads(threads)
        library.gq_set_team(native.torch_team())
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


@pytest.mark.skipif(
    not torch.backends.openmp.is_available() or sys.platform != "linux",
    reason="PyTorch without OpenMP",
)
def test_a_pass_runs_on_the_threads_of_torch():
    assert native.torch_team() is not None


@pytest.mark.parametrize("name", PASSES)
def test_a_nan_stays_a_nan_and_spoils_no_neighbour(name):
    w, _, scale, inverse, c, _ = inputs(0, 1, 40, 5, False)
    w[0, 7] = float("nan")
    for mode in (SOFT, HARD):
        out = PASSES[name][0](w, scale, inverse, c, mode, 7.0)
        assert torch.isnan(out[0]).nonzero().tolist() == [[7]]


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("alpha", [40.0, 44.0, 90.0, 1000.0])
def test_a_large_alpha_gives_the_nearest_centroid(name, alpha):
    w, grad, scale, inverse, c, dc = inputs(0, 4, 60, 4, True)
    w[0, :16] = scale[0] * c  # on their centroids
    forward, backward = PASSES[name]
    soft = forward(w, scale, inverse, c, SOFT, alpha)
    hard = forward(w, scale, inverse, c, HARD)
    _, t = assignment.locate(w * inverse, c)
    clear = (t - 0.5).abs() > 0.2
    torch.testing.assert_close(soft[clear], hard[clear], rtol=1e-3, atol=1e-3)
    for result in backward(grad, w, scale, inverse, c, dc, SOFT, alpha):
        assert result.isfinite().all()


@compiled
def test_the_choice():
    w, c = torch.ones(2, 3), torch.linspace(-1, 1, 4)
    assert function.backend(w, c) is fused
    for other in (w.double(), w.half(), w.to("meta")):
        assert function.backend(other, c) is assignment
    assert function.backend(w, torch.linspace(-1, 1, 3)) is assignment


def test_the_choice_without_the_library(monkeypatch):
    monkeypatch.setattr(native.library, "loaded", lambda: None)
    assert function.backend(torch.ones(2, 3), torch.tensor([-1.0, 1.0])) is assignment


def arguments():
    w = torch.randn(4, 6)
    scale = torch.ones(4, 1)
    c = torch.linspace(-1, 1, 8)
    return {"w": w, "scale": scale, "inv_scale": 1 / scale, "c": c}


def gradients():
    given = arguments()
    return {**given, "grad": torch.ones_like(given["w"]), "dc": given["c"].clone()}


SPOILT = {
    "type": lambda t: t.double(),
    "half": lambda t: t.half(),
    "device": lambda t: t.to("meta"),
    "shorter": lambda t: t[:-1],
    "longer": lambda t: torch.cat([t, t, t]),
    "whole numbers": lambda t: t.int(),
    "sparse": lambda t: t.to_sparse(),
}


@compiled
@pytest.mark.parametrize("spoil", SPOILT)
@pytest.mark.parametrize("name", ["scale", "inv_scale", "c", "grad", "dc", "w"])
def test_memory_that_is_not_what_the_kernels_read_is_refused(name, spoil):
    calls = [lambda g: fused.backward(**g, mode=SOFT, alpha=3.0)]
    if name not in ("grad", "dc"):
        forward = ("w", "scale", "inv_scale", "c")
        calls.append(
            lambda g: fused.forward(**{k: g[k] for k in forward}, mode=HARD, alpha=3.0)
        )
    for call in calls:
        given = gradients()
        call(given)
        given[name] = SPOILT[spoil](given[name])
        with pytest.raises((TypeError, ValueError, RuntimeError, NotImplementedError)):
            call(given)


@compiled
def test_strided_scales_are_refused():
    given = arguments()
    given["scale"] = torch.ones(4, 2)[:, :1]
    with pytest.raises(ValueError, match="contiguous"):
        fused.forward(**given, mode=SOFT)
