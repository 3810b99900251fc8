"""The CUDA kernels against plain PyTorch: on the device where there is one, and in
Triton's interpreter everywhere."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton", reason="this PyTorch build has no Triton")


def compare(device):
    """Compare both kernels with `assignment`; also run by the interpreter test."""
    from espnet_gq.native.library import HARD, SOFT
    from espnet_gq.quantizer import assignment, triton_kernel
    from espnet_gq.quantizer.mulaw import codebook

    torch.manual_seed(0)
    cases = [
        (b, r, m) for b in (1, 2, 5, 8) for r in (False, True) for m in (SOFT, HARD)
    ]
    for bits, per_row, mode in cases:
        w, grad = torch.randn(2, 3, 1100, device=device)
        scale = torch.rand(3 if per_row else 1, 1, device=device) + 0.5
        c, dc = codebook(torch.tensor([2.0], device=device), bits)
        args = (scale, scale.reciprocal(), c)
        alpha = 7.0
        out = triton_kernel.forward(w, *args, mode, alpha)
        ours = triton_kernel.backward(grad, w, *args, dc, mode, alpha)
        expected = assignment.forward(w, *args, mode, alpha)
        if mode == HARD:
            assert torch.equal(out, expected)
        else:
            torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
        theirs = assignment.backward(grad, w, *args, dc, mode, alpha)
        for a, b in zip(ours, theirs):
            torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_on_cuda():
    compare("cuda")


def test_in_the_interpreter():
    code = "import test_triton_kernel as t; t.compare('cpu')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
