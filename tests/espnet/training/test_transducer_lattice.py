"""The kernel that walks through lattices computes what PyTorch does: on the device
where there is one, in Triton's interpreter everywhere; and compiles for every GPU."""

import os
import subprocess
import sys

import pytest
import torch

from benchmarks import ROOT
from benchmarks.gpu import compile_kernels

triton = pytest.importorskip("triton", reason="this PyTorch build has no Triton")


def compare(device):
    """Compare kernel and PyTorch; also run by the interpreter test."""
    from espnet_gq.espnet.training.transducer_kernel import walk
    from espnet_gq.espnet.training.transducer_lattice import walk_plain

    torch.manual_seed(0)
    for steps, batch, width in ((1, 1, 1), (1, 2, 5), (9, 1, 1), (40, 3, 33)):
        arcs = -3 * torch.rand(2, steps, batch, width, dtype=torch.float64)
        arcs[arcs < -2.5] = -torch.inf
        arcs[:, steps // 2, 0, :] = -torch.inf  # no way through the first lattice
        arcs[0, steps // 3, -1, 0] = torch.nan
        arcs = arcs.to(device)
        begin = torch.full_like(arcs[0, 0], -torch.inf)
        begin[:, width // 2] = 0
        for reverse in (False, True):
            found = walk(*arcs, begin, reverse)
            expected = walk_plain(*arcs, begin, reverse)
            torch.testing.assert_close(
                found, expected, rtol=1e-12, atol=1e-12, equal_nan=True
            )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_on_cuda():
    from espnet_gq.espnet.training import transducer_kernel

    compare("cuda")
    assert transducer_kernel.is_right(torch.device("cuda"))


def test_in_the_interpreter():
    module = "tests.espnet.training.test_transducer_lattice"
    code = f"from {module} import compare; compare('cpu')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.skipif(
    compile_kernels.unavailable() is not None, reason=str(compile_kernels.unavailable())
)
@pytest.mark.parametrize("capability", compile_kernels.CAPABILITIES)
def test_compiles(capability, monkeypatch, tmp_path):
    from espnet_gq.espnet.training.transducer_kernel import _walk_kernel

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for reverse in (False, True):
        figures = compile_kernels.compiled(
            _walk_kernel,
            capability,
            ["*fp64", "*fp64", "*fp64", "i32", "i32", "i32"],
            dict(REVERSE=reverse, SIZE=128),
        )
        assert figures["registers"] <= 168 and figures["stack"] <= 16
        assert figures["shared"] == 0
