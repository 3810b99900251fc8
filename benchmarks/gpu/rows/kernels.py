"""The fused pass: accuracy against float64, and bandwidth relative to a copy."""

from typing import Iterator, List, Tuple, Union

import torch

from benchmarks.gpu.rows import (
    Result,
    Settings,
    at_least,
    at_most,
    attempt,
    holds,
    seconds_of,
)
from espnet_gq.native import available
from espnet_gq.native.library import HARD, SOFT
from espnet_gq.quantizer import assignment, fused, triton_kernel
from espnet_gq.quantizer.function import fake_quantize, scale_pair
from espnet_gq.quantizer.mulaw import codebook

ALPHA = 7.0
ODD = 2e-3
"""Error above which a value counts as assigned to another centroid, which happens in
float32 close to thresholds. The unit is one scale for values and the largest gradient
for gradients.
"""
COPY_SHARE = 0.6
SLICE = 2**21
Device = Union[str, torch.device]


def _weights(rows: int, columns: int, device: Device, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(rows, columns, device=device, generator=generator)


def _gradient(t: torch.Tensor) -> torch.Tensor:
    if t.grad is None:
        raise ValueError("a tensor got no gradient")
    return t.grad


class _Case:
    """A weight tensor, its quantization, and the differences from float64."""

    def __init__(self, w: torch.Tensor, bits: int, mode: int, per_row: bool):
        self.w, self.bits, self.mode = w, bits, mode
        scales = len(w) if per_row else 1
        self.log_scale = torch.linspace(-0.2, 0.2, scales, device=w.device)
        self.log_mu = torch.full((1,), 0.7, device=w.device)
        self.odd = self.far = self.sums = 0.0

    def compare(self) -> None:
        """Compute the attributes odd, far and sums.

        `odd` is the fraction of values with an error above ODD, `far` the largest error
        of the others, `sums` the relative error of the gradients of scale and
        curvature.
        """
        w = self.w.detach().requires_grad_()
        log_scale, log_mu = (
            self.log_scale.requires_grad_(),
            self.log_mu.requires_grad_(),
        )
        out = fake_quantize(w, log_scale, log_mu, self.bits, self.mode, ALPHA)
        grad = _weights(len(w), w.shape[1], w.device, seed=1).to(w.dtype)
        out.backward(grad)
        d_w, d_log_scale, d_log_mu = map(_gradient, (w, log_scale, log_mu))
        scales = torch.zeros(len(log_scale), dtype=torch.float64, device=w.device)
        sizes, mu = scales.clone(), scales.new_zeros(2)
        step = max(SLICE // w.shape[1], 1)
        wrong, far = 0, 0.0
        for start in range(0, len(w), step):
            rows = slice(start, start + step)
            share = rows if len(log_scale) > 1 else slice(None)
            found = out[rows].detach(), d_w[rows]
            true, d_scale, d_mu = self._reference(rows, share, grad[rows])
            for a, b, unit in zip(found, true, (1.0, float(true[1].abs().max()))):
                difference = (a.double() - b).abs() / unit
                # Half precision rounds the results.
                fine = difference - b.abs() / unit * torch.finfo(w.dtype).eps
                wrong += int((fine > ODD).sum())
                far = max(far, float(fine.where(fine <= ODD, 0.0).max()))
            scales[share] += d_scale[0]
            sizes[share] += d_scale[1]
            mu += d_mu
        self.odd, self.far = wrong / (2 * w.numel()), far
        sums = d_log_scale.double()
        # Relative to all scales: a weight assigned to another centroid changes its own
        # scale's gradient by much.
        self.sums = max(
            float((sums - scales).norm() / sizes.norm()),
            float((d_log_mu.double() - mu[0]).abs() / mu[1]),
        )

    def _reference(self, rows: slice, share: slice, grad: torch.Tensor):
        """Return values and gradients of some rows in float64, and their sums.

        Each sum comes with the sum of the magnitudes of its terms.
        """
        # Codebook and scale in float32 are the exact inputs of the pass.
        scale, inverse = scale_pair(self.log_scale[share], torch.float32)
        c, dc = codebook(self.log_mu.detach(), self.bits, torch.float32)
        w = self.w[rows].detach().double()
        args = w, scale.double(), inverse.double(), c.double()
        out = assignment.forward(*args, self.mode, ALPHA)
        signed = assignment.backward(
            grad.double(), *args, dc.double(), self.mode, ALPHA
        )
        # The sum has terms of both signs: its error is relative to their magnitudes.
        magnitude = (grad.double().abs() * args[1]).sum(1 if len(scale) > 1 else None)
        return (
            (out, signed[0]),
            (signed[1].view(-1), magnitude.view(-1)),
            torch.stack([signed[2], magnitude.sum()]),
        )


def _values(
    name: str,
    shapes: List[Tuple[int, int]],
    device: str,
    change=None,
    widths=range(1, 9),
) -> Iterator[Result]:
    odd = far = sums = 0.0
    count = 0
    for rows, columns in shapes:
        for bits in widths:
            for mode in (SOFT, HARD):
                for per_row in (False, True):
                    w = _weights(rows, columns, device)
                    case = _Case(change(w) if change else w, bits, mode, per_row)
                    case.compare()
                    odd, far = max(odd, case.odd), max(far, case.far)
                    sums = max(sums, case.sums)
                    count += 1
    note = f"{count} forms"
    yield at_most(f"{name}: weights assigned otherwise", odd, 1e-4, "of all", note)
    yield at_most(f"{name}: largest error of the others", far, 1e-3, "scales", note)
    yield at_most(f"{name}: gradients of scale and curvature", sums, 1e-4, "relative")


def _non_contiguous(w: torch.Tensor) -> torch.Tensor:
    return torch.stack([w, w], -1)[..., 0]


def _in_use(device: str) -> Iterator[Result]:
    if device == "cuda":
        one, c = torch.ones(4, 4, device="cuda"), torch.ones(4, device="cuda")
        yield holds("Triton's kernels are in use", triton_kernel.usable(one, c))
    else:
        yield holds("the native library is in use", available())


def _bandwidth(settings: Settings, bits: int, columns: int) -> Iterator[Result]:
    device = settings.device
    numel = 2**20 if settings.small else 50 * 2**20
    w = _weights(numel // columns, columns, device)
    grad, other = torch.ones_like(w), torch.empty_like(w)
    copied = 8 * numel / seconds_of(lambda: other.copy_(w))
    c, dc = codebook(torch.full((1,), 0.7, device=device), bits, torch.float32)
    scale, inverse = scale_pair(torch.zeros(1, device=device), torch.float32)
    kernels = triton_kernel if device == "cuda" else fused
    args = w, scale, inverse, c
    calls = {
        "forward": (8, lambda: kernels.forward(*args, SOFT, ALPHA)),
        "backward": (12, lambda: kernels.backward(grad, *args, dc, SOFT, ALPHA)),
    }
    for name, (size, call) in calls.items():
        share = size * numel / seconds_of(call) / copied
        case = f"bandwidth over a copy's: {name}, {bits} bits, {numel / 1e6:.0f} M"
        note = f"copy {copied / 1e9:,.0f} GB/s"
        if settings.small:
            yield Result(case, "figure", share, "of copy", note=note)
        else:
            yield at_least(case, share, COPY_SHARE, "of copy", note)


def run(settings: Settings) -> Iterator[Result]:
    """Yield the results of this row."""
    device, small = settings.device, settings.small
    mega = 2**14 if small else 2**20
    sizes: List[Tuple[int, int]] = [(256, mega // 256), (1000, mega // 1024 + 3)]
    large = [(4096, 50 * mega // 4096)]
    yield from attempt("kernels", lambda: _in_use(device))
    for shapes, widths in ((sizes, range(1, 9)), (large, (2, 5, 8))):
        name = f"{shapes[0][0] * shapes[0][1] / 1e6:.2g} M"
        yield from attempt(name, lambda: _values(name, shapes, device, widths=widths))
    yield from attempt(
        "non-contiguous",
        lambda: _values("not contiguous", sizes[1:], device, _non_contiguous),
    )
    for dtype in (torch.float16, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        yield from attempt(
            name,
            lambda: _values(
                f"{name} weights", sizes[:1], device, lambda w: w.to(dtype), (2, 5, 8)
            ),
        )
    for bits in (2, 5, 8):
        yield from attempt(
            f"bandwidth, {bits} bits", lambda: _bandwidth(settings, bits, 1024)
        )
