"""Training of each architecture with AMP in fp16 (with skipped steps) and bf16,
accumulated gradients, and gradient checkpointing.
"""

import functools
from typing import Any, Iterator, List, Optional

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import espnet_gq
from benchmarks.gpu.models import ARCHITECTURES, Recogniser, batch, quantized
from benchmarks.gpu.rows import Result, Settings, attempt, holds
from espnet_gq.quantizer import Quantizer

STEPS = 4
ATTEMPTS = 40


class Training:
    """Adam on one batch, stepping as ESPnet's trainer does."""

    def __init__(self, model: nn.Module, vocabulary: int, device: str, dtype=None):
        self.model, self.device, self.dtype = model, device, dtype
        self.batch = batch(0, vocabulary, device)
        self.optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
        self.scaler: Optional[torch.amp.GradScaler] = None
        if dtype == torch.float16:
            # Large enough that the first steps overflow and are skipped.
            self.scaler = torch.amp.GradScaler(device, init_scale=2.0**26)
        self.steps = self.skipped = 0
        self.optimizer.register_step_post_hook(lambda *_: self._count())
        self.losses: List[float] = []

    def _count(self) -> None:
        self.steps += 1
        espnet_gq.advance(self.model)

    def loss(self) -> torch.Tensor:
        """Return the loss of the batch."""
        enabled = self.dtype is not None
        with torch.autocast(self.device, self.dtype or torch.bfloat16, enabled):
            return self.model(**self.batch)[0]

    def step(self, accumulate: int = 1) -> None:
        """Take a step; it is skipped if a gradient is not finite."""
        before = self.steps
        for _ in range(accumulate):
            loss = self.loss() / accumulate
            (self.scaler.scale(loss) if self.scaler else loss).backward()
        if self.scaler:
            self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        if self.scaler:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        elif torch.isfinite(norm):
            self.optimizer.step()
        self.optimizer.zero_grad()
        self.skipped += self.steps == before
        if self.steps > before:
            self.losses.append(float(loss.detach()) * accumulate)

    def finished(self, case: str) -> Result:
        """Return a result that passes if the loss fell and the steps were counted."""
        counted = {m.step for m in self.model.modules() if isinstance(m, Quantizer)}
        finite = all(torch.isfinite(p).all() for p in self.model.parameters())
        learned = len(self.losses) > 1 and self.losses[-1] < self.losses[0]
        skipped = self.skipped > 0 or self.scaler is None
        note = (
            f"loss {self.losses[0]:.2f} to {self.losses[-1]:.2f}"
            if learned
            else (f"losses {self.losses}")
        )
        if self.scaler:
            note += f", {self.skipped} skipped steps"
        if counted != {self.steps}:
            note += f"; quantizers counted {sorted(counted)} of {self.steps} steps"
        return holds(
            case, finite and learned and skipped and counted == {self.steps}, note
        )


def _checkpointed(model: nn.Module) -> None:
    """Recompute every encoder layer in the backward pass."""
    encoder: Any = model.encoder
    for layer in encoder.encoders:
        layer.forward = functools.partial(
            checkpoint, layer.forward, use_reentrant=False
        )


def _trained(
    name: str, recogniser: Recogniser, settings: Settings, kind: str
) -> Iterator[Result]:
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(kind)
    model = quantized(recogniser, 5, settings.device, fast=False)
    if kind == "gradient checkpointing":
        _checkpointed(model)
    training = Training(model, recogniser.vocabulary, settings.device, dtype)
    for _ in range(ATTEMPTS):
        training.step(accumulate=3 if kind == "accum_grad" else 1)
        if training.steps == STEPS:
            break
    yield training.finished(f"{name}: {kind}")


def _same_gradient(settings: Settings) -> Iterator[Result]:
    recogniser = ARCHITECTURES["conformer"]
    gradients = []
    for recomputed in (False, True):
        model = quantized(recogniser, 5, settings.device)
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        if recomputed:
            _checkpointed(model)
        Training(model, recogniser.vocabulary, settings.device).loss().backward()
        found = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        gradients.append(torch.cat(found).double())
    error = float((gradients[0] - gradients[1]).norm() / gradients[0].norm())
    case = "gradient checkpointing: the same gradient"
    yield holds(case, error < 1e-4, f"relative difference {error:.1e}")


def run(settings: Settings) -> Iterator[Result]:
    """Yield the results of this row."""
    for name, recogniser in ARCHITECTURES.items():
        for kind in ("fp16", "bf16"):
            if kind == "bf16" and settings.device == "cuda":
                if not torch.cuda.is_bf16_supported():
                    continue
            yield from attempt(
                f"{name}: {kind}",
                lambda: _trained(name, recogniser, settings, kind),
            )
    for name in ("conformer", "transducer"):
        yield from attempt(
            f"{name}: accum_grad",
            lambda: _trained(name, ARCHITECTURES[name], settings, "accum_grad"),
        )
    for name in ("conformer", "e_branchformer"):
        kind = "gradient checkpointing"
        yield from attempt(
            f"{name}: {kind}",
            lambda: _trained(name, ARCHITECTURES[name], settings, kind),
        )
    yield from attempt("checkpointing", lambda: _same_gradient(settings))
