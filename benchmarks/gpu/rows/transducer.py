"""The transducer loss: accuracy, and time and memory compared with torchaudio's."""

from dataclasses import replace
from typing import Any, Callable, Iterator, Tuple

import torch

from benchmarks.gpu.rows import (
    FIGURE,
    Result,
    Settings,
    at_most,
    attempt,
    holds,
    seconds_of,
)
from espnet_gq.espnet.training import transducer_kernel
from espnet_gq.espnet.training.transducer_loss import CHUNK, rnnt_loss

WIDTH = 8
"""Input size of the layer that computes the logits (a joint network's last layer)."""
WORKSPACE = 2**26
"""Allowance for the workspace of cuBLAS, in bytes."""


class _Batch:
    """Inputs of the loss, and the layer that computes its logits."""

    def __init__(self, sizes: Tuple[int, int, int, int], dtype, device: str):
        b, t, u, v = self.sizes = sizes
        numbers = torch.Generator().manual_seed(0)
        torch.manual_seed(0)
        self.joint = torch.nn.Linear(WIDTH, v).to(device, dtype)
        hidden = torch.randn(b, t, u + 1, WIDTH, generator=numbers)
        self.hidden = hidden.to(device, dtype).requires_grad_()
        labels = torch.randint(1, v, (b, u), generator=numbers, dtype=torch.int32)
        lengths = [torch.linspace(n, max(n * 3 // 4, 1), b).int() for n in (t, u)]
        self.labels, self.frames, self.counts = (
            x.to(device) for x in (labels, *lengths)
        )

    def step(self, loss: Callable[..., torch.Tensor]) -> Any:
        """Return the loss and the gradient of the hidden layer; drop the logits."""
        self.hidden.grad = None
        value = loss(self.joint(self.hidden), self.labels, self.frames, self.counts)
        value.sum().backward()
        return value.detach(), self.hidden.grad

    @property
    def logits(self) -> int:
        """Size of the logits in bytes."""
        b, t, u, v = self.sizes
        return b * t * (u + 1) * v * self.hidden.element_size()


def _ours(acts, labels, frames, counts):
    return rnnt_loss(acts, labels, frames, counts, 0, "none", 0.0)


def _theirs(acts, labels, frames, counts):
    from torchaudio.functional import rnnt_loss as torchaudio_loss

    return torchaudio_loss(acts, labels, frames, counts, blank=0, reduction="none")


def _values(settings: Settings) -> Iterator[Result]:
    sizes = (2, 20, 6, 30) if settings.small else (8, 200, 40, 500)
    exact = _Batch(sizes, torch.float64, "cpu").step(_ours)
    size = float(exact[1].abs().max())
    for name, loss in (("ours", _ours), ("torchaudio's", _theirs)):

        def compared() -> Iterator[Result]:
            value, grad = _Batch(sizes, torch.float32, settings.device).step(loss)
            errors = (
                float(((value.cpu() - exact[0]) / exact[0]).abs().max()),
                float((grad.cpu() - exact[1]).abs().max()) / size,
            )
            for what, error, limit in zip(("value", "gradient"), errors, (1e-5, 1e-4)):
                case = f"{name}: {what}, from float64"
                if name == "ours":
                    yield at_most(case, error, limit, "relative")
                else:
                    yield Result(case, FIGURE, error, "relative")

        yield from attempt(f"{name}: values", compared)


def _kernel(settings: Settings) -> Iterator[Result]:
    if settings.device == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())
        used = transducer_kernel.triton is not None
        yield holds("the lattice's kernel is right", used and _right(device))


def _right(device: torch.device) -> bool:
    return transducer_kernel.is_right(device)


def _cost(sizes, dtype, settings: Settings) -> Iterator[Result]:
    batch = _Batch(sizes, dtype, settings.device)
    b, t, u, v = sizes
    shape = f"B {b} T {t} U {u} V {v:,} {str(dtype).removeprefix('torch.')}"
    gib = batch.logits / 2**30
    if settings.device == "cuda":
        free = torch.cuda.mem_get_info()[0]
        if free < 1.3 * batch.logits:
            note = f"{free / 2**30:.0f} GiB are free, the logits need {gib:.1f}"
            yield Result(shape, "skipped", note=note)
            return
    for name, loss in (("ours", _ours), ("torchaudio's", _theirs)):
        if loss is _theirs and b * t * (u + 1) * v >= 2**31:
            note = "the logits exceed its 32-bit indices"
            yield Result(f"{name}: {shape}", "skipped", note=note)
            continue

        def measured() -> Iterator[Result]:
            if settings.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
            seconds = seconds_of(lambda: batch.step(loss), 3)
            note = f"logits {gib:.2f} GiB"
            yield Result(
                f"{name}: step, {shape}", FIGURE, 1e3 * seconds, "ms", note=note
            )
            if settings.device == "cuda":
                peak = torch.cuda.max_memory_allocated() - before
                case = f"{name}: peak memory over the logits', {shape}"
                if name == "ours":
                    extra = 12 * max(CHUNK, (u + 1) * v) + 96 * b * (t + u + 1) * (
                        u + 1
                    )
                    small = 16 * batch.hidden.numel() + WORKSPACE
                    limit = 1 + (extra + small) / batch.logits
                    yield at_most(case, peak / batch.logits, limit, "x", note)
                else:
                    yield Result(case, FIGURE, peak / batch.logits, "x", note=note)

        for result in attempt(f"{name}: {shape}", measured):
            if loss is _theirs and result.status == "fail":
                result = replace(result, status="skipped")  # not ours
            yield result


def run(settings: Settings) -> Iterator[Result]:
    """Yield the results of this row."""
    yield from attempt("kernel", lambda: _kernel(settings))
    yield from attempt("values", lambda: _values(settings))
    float32, float16 = torch.float32, torch.float16
    cases = [((2, 20, 6, 50), float32)]
    if not settings.small:
        cases = [((8, 250, 60, 500), float32), ((16, 400, 80, 5000), float16)]
        cases += [((8, 400, 80, 5000), float32), ((16, 400, 80, 5000), float32)]
    for sizes, dtype in cases:
        yield from attempt(f"cost {sizes}", lambda: _cost(sizes, dtype, settings))
