"""Quantization of a large model: prepare, fit, one pass, harden and pack."""

from typing import Iterator

import torch
from torch import nn

import espnet_gq
from benchmarks.gpu.rows import FIGURE, Result, Settings, attempt, holds
from benchmarks.measuring import Clock
from espnet_gq.nn.prepare import harden_, quantized_weights
from espnet_gq.nn.training import fit_quantizers


def _quantized(settings: Settings) -> Iterator[Result]:
    size, layers = (256, 15) if settings.small else (8192, 15)
    device = settings.device
    with torch.device(device):
        model = nn.Sequential(*(nn.Linear(size, size) for _ in range(layers)))
    weights = sum(p.numel() for p in model.parameters())
    what = f"{weights / 1e6:,.0f} M"
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    clock = Clock()

    def lap(name: str) -> Result:
        return Result(f"{what}: {name}", FIGURE, clock.lap(), "s")

    espnet_gq.prepare(model, {"bits": 4})
    fit_quantizers(model[:1])
    yield lap(f"fitting one of {layers} layers")
    # All layers have the same distribution and share the first one's codebook.
    first, *others = (quantizer for _, _, quantizer in quantized_weights(model))
    for quantizer in others:
        for mine, other in zip(quantizer.parameters(), first.parameters()):
            mine.data.copy_(other.data)
        quantizer.fitted = True
    x = torch.randn(8, size, device=device)
    model(x).square().mean().backward()
    yield lap("a forward and a backward pass")
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated() / (4 * weights)
        yield Result(f"{what}: peak memory over the weights'", FIGURE, peak, "x")
    model.zero_grad()
    out = model.eval()(x)
    packed = espnet_gq.pack(model)
    yield lap("packing")
    size_of_data = packed["data"].numel()
    bits = 8 * size_of_data / weights
    yield Result(f"{what}: packed bits per weight", FIGURE, bits, "bits")
    hardened = harden_(model)
    yield lap("hardening")
    with torch.no_grad():
        yield holds(f"{what}: hardened as evaluated", torch.equal(hardened(x), out))


def run(settings: Settings) -> Iterator[Result]:
    """Yield the results of this row."""
    yield from attempt("large", lambda: _quantized(settings))
