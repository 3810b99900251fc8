"""Step time and peak memory of quantization-aware training relative to float training,
for GQ, torchao and Brevitas, as `benchmarks.training.cost` measures them on a CPU.
"""

import statistics
from typing import Any, Dict, Iterator, List, Tuple

import torch
from torch import nn

import espnet_gq
from benchmarks.gpu.models import (
    CONFORMER_30M,
    CONFORMER_115M,
    LSTM_60M,
    RNNT,
    quantized,
)
from benchmarks.gpu.rows import FIGURE, SKIPPED, Result, Settings, at_most, attempt
from benchmarks.measuring import Clock
from benchmarks.training.step import Workload
from benchmarks.training.variants import LIBRARIES, TINY, Variant, import_packages

ROUNDS, WARMUP = 6, 3
LIMITS = {"time": 1.05, "memory": 1.03}
LIMITED = "Conformer 115 M"
VARIANTS = [
    Variant(method, bits) for method in ("gq", "torchao", "brevitas") for bits in (5, 8)
]


class _Trainee:
    """A variant with its optimizer, in the precision that recipes train with."""

    def __init__(self, variant: Variant, size: Any, device: str):
        import_packages(variant)
        gq_bits = variant.bits if variant.method == "gq" else None
        model = quantized(size, gq_bits, "cpu")
        if variant.method in LIBRARIES and variant.bits is not None:
            model = LIBRARIES[variant.method](model, variant.bits)
        self.model, self.device = model.to(device).train(), device
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-5)

    def step(self, batch: Dict[str, torch.Tensor]) -> float:
        """Take one step; return its duration in seconds."""
        clock = Clock()
        cuda = self.device == "cuda"
        with torch.autocast(self.device, torch.bfloat16, enabled=cuda):
            loss = self.model(**batch)[0]
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        espnet_gq.advance(self.model)
        return clock.lap()


def _made(
    variant: Variant, size: Any, batch: Dict[str, torch.Tensor], device: str
) -> Tuple[_Trainee, int]:
    """Build a variant and warm it up; return it and its peak memory in bytes."""
    before = 0
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    trainee = _Trainee(variant, size, device)
    for _ in range(WARMUP):
        trainee.step(batch)
    peak = torch.cuda.max_memory_allocated() - before if device == "cuda" else 0
    return trainee, peak


def _compared(
    name: str, size: Any, workload: Workload, settings: Settings
) -> Iterator[Result]:
    device = settings.device
    batch = workload.batch(0, size.vocabulary, device)
    reference, float_peak = _made(Variant("float"), size, batch, device)
    weights = sum(p.numel() for p in reference.model.parameters()) / 1e6
    seconds: List[float] = []
    for variant in VARIANTS:

        def measured() -> Iterator[Result]:
            missing = variant.missing()
            if missing:
                if variant.bits == 5:
                    yield Result(f"{name}: {variant.method}", SKIPPED, note=missing)
                return
            trainee, peak = _made(variant, size, batch, device)
            ratios = []
            for index in range(2 if settings.small else ROUNDS):
                order = (reference, trainee) if index % 2 else (trainee, reference)
                taken = {t: t.step(batch) for t in order}
                ratios.append(taken[trainee] / taken[reference])
                seconds.append(taken[reference])
            spread = f"{min(ratios):.3f} to {max(ratios):.3f}; float "
            spread += f"{1e3 * statistics.median(seconds):.0f} ms, {weights:.0f} M"
            found = {"time": (statistics.median(ratios), spread)}
            if device == "cuda":
                note = f"float {float_peak / 2**30:.2f} GiB"
                found["memory"] = (peak / float_peak, note)
            for what, (ratio, note) in found.items():
                case = f"{name}: {what} over float, {variant}"
                if name == LIMITED and variant.method == "gq" and not settings.small:
                    yield at_most(case, ratio, LIMITS[what], "x", note)
                else:
                    yield Result(case, FIGURE, ratio, "x", note=note)

        yield from attempt(f"{name}: {variant}", measured)


def run(settings: Settings) -> Iterator[Result]:
    """Yield the results of this row."""
    long, short = Workload(16, 12), Workload(2, 1.5)
    models = {
        LIMITED: (CONFORMER_115M, long),
        "Conformer 30 M": (CONFORMER_30M, long),
        "LSTM transducer 60 M": (LSTM_60M, Workload(8, 10)),
    }
    if settings.small:
        models = {"tiny Conformer": (TINY, short), "tiny transducer": (RNNT, short)}
    for name, (size, workload) in models.items():
        yield from attempt(name, lambda: _compared(name, size, workload, settings))
