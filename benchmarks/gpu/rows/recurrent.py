"""Quantized LSTM and GRU: accuracy, layout of the weights in cuDNN, relative time."""

import copy
import warnings
from typing import Any, Callable, Dict, Iterator, List, Tuple

import torch
from torch import nn

import espnet_gq
from benchmarks.gpu.rows import (
    FIGURE,
    Result,
    Settings,
    at_most,
    attempt,
    holds,
    seconds_of,
)
from espnet_gq.nn.flat_weights import flattened
from espnet_gq.nn.training import fit_quantizers

KINDS: Dict[str, Any] = {
    "LSTM": (nn.LSTM, dict(num_layers=2)),
    "LSTM, bidirectional": (nn.LSTM, dict(num_layers=2, bidirectional=True)),
    "LSTM, projected": (nn.LSTM, dict(num_layers=2, proj_size=256)),
    "GRU": (nn.GRU, dict(num_layers=2)),
}


def _layer(kind: str, size: int, bits: int) -> nn.RNNBase:
    cls, options = KINDS[kind]
    if "proj_size" in options:
        options = dict(options, proj_size=size // 2)
    torch.manual_seed(0)
    rnn = cls(size, size, batch_first=True, **options)
    if bits:
        espnet_gq.prepare(rnn, {"bits": bits})
        fit_quantizers(rnn)
    return rnn.train()


def _step(rnn: nn.Module, x: torch.Tensor) -> List[torch.Tensor]:
    """Return the output and the gradients."""
    rnn.zero_grad()
    out = rnn(x)[0]
    out.square().mean().backward()
    return [out.detach(), *(p.grad for p in rnn.parameters() if p.grad is not None)]


def _compacts(call: Callable[[], Any]) -> Tuple[Any, bool]:
    """Return the result of a call, and whether cuDNN had to compact the weights."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = call()
    return result, any("contiguous chunk" in str(w.message) for w in caught)


def _compared(kind: str, settings: Settings) -> Iterator[Result]:
    torch.backends.cudnn.allow_tf32 = False
    size = 32 if settings.small else 256
    x = torch.randn(4, 50, size, generator=torch.Generator().manual_seed(1))
    reference = _layer(kind, size, 5).double()
    there = copy.deepcopy(reference).float().to(settings.device)
    expected = _step(reference, x.double())
    found, compacted = _compacts(lambda: _step(there, x.to(settings.device)))
    errors = [
        float((a.cpu().double() - b).norm() / b.norm().clamp_min(1e-12))
        for a, b in zip(found, expected)
    ]
    yield at_most(f"{kind}: output, from float64", errors[0], 1e-3, "relative")
    yield at_most(f"{kind}: gradients, from float64", max(errors[1:]), 1e-2, "relative")
    if settings.device == "cuda":
        yield holds(f"{kind}: cuDNN gets one buffer of weights", not compacted)


def _layout(kind: str) -> Iterator[Result]:
    layer = _layer(kind, 64, 0).cuda()
    weights = [w.detach().clone() for w in layer._flat_weights if w is not None]
    layer._flat_weights = [*flattened(weights, layer)]
    _, compacted = _compacts(lambda: layer(torch.randn(2, 5, 64, device="cuda")))
    yield holds(f"{kind}: flattened weights lie where cuDNN looks", not compacted)


def _time(kind: str, settings: Settings, amp: bool) -> Iterator[Result]:
    torch.backends.cudnn.allow_tf32 = True  # PyTorch's default
    size, batch, frames = (32, 2, 20) if settings.small else (1024, 16, 250)
    x = torch.randn(batch, frames, size, device=settings.device)
    seconds = {}
    for bits in (0, 5, 8):
        rnn = _layer(kind, size, bits).to(settings.device)
        rnn.flatten_parameters()

        def step():
            with torch.autocast(settings.device, torch.float16, enabled=amp):
                out = rnn(x)[0]
            out.float().square().mean().backward()

        seconds[bits] = seconds_of(step, 3 if settings.small else 10)
    for bits in (5, 8):
        yield Result(
            f"{kind}: time over float, {bits} bits" + ", fp16" * amp,
            FIGURE,
            seconds[bits] / seconds[0],
            "x",
            note=f"float {1e3 * seconds[0]:.1f} ms",
        )


def run(settings: Settings) -> Iterator[Result]:
    """Yield the results of this row."""
    for kind in KINDS:
        yield from attempt(kind, lambda: _compared(kind, settings))
        if settings.device == "cuda":
            yield from attempt(f"{kind}, layout", lambda: _layout(kind))
    for kind in ("LSTM", "GRU"):
        for amp in (False, True) if settings.device == "cuda" else (False,):
            name = f"{kind}, time"
            yield from attempt(name, lambda: _time(kind, settings, amp))
