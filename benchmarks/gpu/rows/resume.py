"""Interrupted and resumed training: the parameters of an uninterrupted one."""

import tempfile
from pathlib import Path
from typing import Any, Iterator, List, Optional

import torch

from benchmarks.gpu.models import ARCHITECTURES, quantized, state
from benchmarks.gpu.rows import Result, Settings, attempt, holds
from benchmarks.gpu.rows.training import Training

STEPS = 6


def _run(name: str, settings: Settings, dtype, interrupt: bool, path: Path):
    """Train for STEPS steps; return the parameters."""
    recogniser = ARCHITECTURES[name]

    def new() -> Training:
        model = quantized(recogniser, 4, settings.device, fast=False)
        training = Training(model, recogniser.vocabulary, settings.device, dtype)
        if training.scaler:
            training.scaler = torch.amp.GradScaler(settings.device, init_scale=128.0)
        return training

    training = new()
    for step in range(STEPS):
        if interrupt and step == STEPS // 2:
            parts: List[Any] = [training.model, training.optimizer, training.scaler]
            torch.save([p.state_dict() if p else None for p in parts], path)
            training = new()
            parts = [training.model, training.optimizer, training.scaler]
            saved = torch.load(path, map_location=settings.device)
            for part, found in zip(parts, saved):
                if part:
                    part.load_state_dict(found)
        torch.manual_seed(step)  # same dropout masks in every run
        training.step()
    return state(training.model)


def _difference(a: List[torch.Tensor], b: List[torch.Tensor]) -> float:
    return max(float((x - y).abs().max()) for x, y in zip(a, b))


def _resumed(name: str, settings: Settings, dtype: Optional[torch.dtype], kind: str):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "checkpoint.pth")
        whole = _run(name, settings, dtype, False, path)
        again = _run(name, settings, dtype, False, path)
        resumed = _run(name, settings, dtype, True, path)
    # Some CUDA operations add in nondeterministic order: runs differ slightly.
    noise, found = _difference(whole, again), _difference(whole, resumed)
    note = f"difference {found:.1e}, of two uninterrupted runs {noise:.1e}"
    yield holds(f"{name}, {kind}", found <= 4 * noise, note)


def run(settings: Settings) -> Iterator[Result]:
    """Yield the results of this row."""
    for name in ("conformer", "transducer"):
        for kind, dtype in (("float32", None), ("fp16", torch.float16)):
            yield from attempt(
                f"{name}, {kind}", lambda: _resumed(name, settings, dtype, kind)
            )
