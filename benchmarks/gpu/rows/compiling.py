"""torch.compile of quantized layers: agreement with eager mode, and recompilations."""

from typing import Any, Iterator, List

import torch
from torch import nn

import espnet_gq
from benchmarks.gpu.rows import FIGURE, Result, Settings, at_most, attempt
from espnet_gq.nn.training import fit_quantizers

STEPS = 10
"""More than torch.compile's recompilation limit: steps must not cause recompilation."""


class _Layers(nn.Module):
    """One layer of each non-recurrent kind."""

    def __init__(self, size: int):
        super().__init__()
        self.embed = nn.Embedding(50, size)
        self.conv = nn.Conv1d(size, size, 3, padding=1)
        self.norm = nn.LayerNorm(size)
        self.linear = nn.Linear(size, size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.embed(x)
        y = y + self.conv(y.transpose(1, 2)).transpose(1, 2).relu()
        return y + self.linear(self.norm(y)).relu()


def _gradients(model: nn.Module, call, x: torch.Tensor) -> List[torch.Tensor]:
    model.zero_grad()
    out = call(x)
    out.square().mean().backward()
    grads: Iterator[Any] = (p.grad for p in model.parameters())
    return [out.detach(), *(grad.clone() for grad in grads)]


def _compiled(settings: Settings) -> Iterator[Result]:
    torch.manual_seed(0)
    size = 32 if settings.small else 256
    model = espnet_gq.prepare(_Layers(size), {"bits": 5, "annealing": {"steps": 100}})
    fit_quantizers(model)
    model = model.to(settings.device).train()
    x = torch.randint(50, (4, 20), device=settings.device)
    compiled = torch.compile(model)
    worst = 0.0
    for _ in range(STEPS):
        expected = _gradients(model, model, x)
        found = _gradients(model, compiled, x)
        for a, b in zip(found, expected):
            worst = max(worst, float((a - b).norm() / b.norm().clamp_min(1e-6)))
        espnet_gq.advance(model)
    yield at_most(
        f"difference from eager mode in {STEPS} steps", worst, 1e-3, "relative"
    )
    counters = torch._dynamo.utils.counters
    graphs = counters["stats"]["unique_graphs"]
    yield Result("graphs compiled", FIGURE, graphs, note="4 layers")


def run(settings: Settings) -> Iterator[Result]:
    """Yield the results of this row."""
    yield from attempt("torch.compile", lambda: _compiled(settings))
