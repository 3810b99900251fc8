"""The state of a training: its annealing from the first step to the figures logged.

What a trainer of any framework calls (`espnet/training/trainer.py` and `lightning.py`
are two):

    check_gradients(module, ...)      before anything is trained
    start(module)                     for a new training; `length.follow_configuration`
                                      for one that is resumed
    length.set_total_steps(...)       once the number of optimizer steps is known
    count_steps(module, optimizer)    or advance(module) after each optimizer step
    temperature(module)               with each batch
    figures(module)                   with each validation
    length.say_if_unfinished(...)     at the end
"""

import dataclasses
import logging
from typing import Dict, List

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from espnet_gq.nn.config import GQConfigError
from espnet_gq.nn.finite import check_finite
from espnet_gq.nn.prepare import quantized_weights
from espnet_gq.nn.summary import summarize
from espnet_gq.quantizer import Quantizer


def quantizers(module: nn.Module) -> List[Quantizer]:
    """Return the quantizers of a module."""
    return [quantizer for _, _, quantizer in quantized_weights(module)]


def check_gradients(
    module: nn.Module, scaled: bool, batches: int, options: str
) -> None:
    """Refuse a training whose gradients a method cannot be used with.

    Args:
        module: The model.
        scaled: Whether losses are multiplied by a scale (mixed precision in float16).
        batches: Batches whose gradients are accumulated for one optimizer step.
        options: The trainer's options that say so, for the message.

    Raises:
        GQConfigError: If a quantizer refuses; names the options.
    """
    for quantizer in quantizers(module):
        try:
            quantizer.check_gradients(scaled, batches)
        except ValueError as e:
            raise GQConfigError(f"{options}: {e}") from None


def start(module: nn.Module) -> None:
    """Begin a new annealing with the present weights.

    Raises:
        NotFiniteError: If a weight is NaN or infinite; names the tensor.
    """
    found = quantizers(module)
    for quantizer in found:
        quantizer.step = 0
        quantizer.total_steps = quantizer.annealing.steps or 0
    if not any(quantizer.annealing.warmup_steps for quantizer in found):
        fit_quantizers(module)
    counted = summarize(module)
    logging.info(
        f"GQ: {len(counted.quantized)} tensors with {sum(counted.numel.values()):,} "
        f"parameters, {100 * counted.share:.1f}% of {counted.total:,} parameters, "
        f"quantized to {counted.effective_bits:.2f} bits; {counted.buffers:,} values "
        "in buffers"
    )


def fit_quantizers(module: nn.Module, again: bool = False) -> None:
    """Fit the quantizers that have not been fitted yet (or all) to their weights.

    Only the start of a training needs it: training steps, `harden` and `pack` fit what
    they need themselves.

    Raises:
        NotFiniteError: If a weight is NaN or infinite; names the tensor.
    """
    for name, weight, quantizer in quantized_weights(module):
        if again or not quantizer.fitted:
            check_finite([(name, weight)])
            quantizer.fit(weight)


def count_steps(module: nn.Module, optimizer: torch.optim.Optimizer) -> RemovableHandle:
    """Advance the annealing at each step of an optimizer, until the hook is removed.

    A step that mixed precision skips is not counted.
    """
    return optimizer.register_step_post_hook(lambda *_: advance(module))


def advance(module: nn.Module) -> None:
    """Count one optimizer step in each quantizer; call it after `optimizer.step()`.

    At the end of a warm-up the codebooks are fitted to the weights of that moment.

    Raises:
        ValueError: If the length of the annealing is not known.
    """
    for _, weight, quantizer in quantized_weights(module):
        quantizer.advance()
        if not quantizer.fitted and quantizer.active:
            quantizer.fit(weight)


def temperature(found: List[Quantizer]) -> float:
    """Return the mean inverse temperature alpha of quantizers."""
    return sum(quantizer.alpha for quantizer in found) / len(found)


@dataclasses.dataclass(frozen=True)
class Progress:
    """State of a module's annealing, as reported during training."""

    temperature: float
    """Mean inverse temperature alpha over the quantized tensors."""
    settled: float
    """Share of weights whose soft value is within 1% of the gap from a centroid."""
    soft_hard_gap: float
    """||soft - hard|| / ||hard|| over all quantized weights."""
    effective_bits: float
    """Mean bits per quantized weight."""


@torch.no_grad()
def progress(module: nn.Module) -> Progress:
    """Measure how far the annealing has come; takes three passes over a sample."""
    total: Dict[str, float] = {}
    found, bits = [], 0.0
    for _, weight, quantizer in quantized_weights(module):
        found.append(quantizer)
        sums = quantizer.statistics(weight)
        bits += quantizer.bits * sums["numel"]
        for key, value in sums.items():
            total[key] = total.get(key, 0.0) + value
    if not found:
        return Progress(0.0, 0.0, 0.0, 32.0)
    numel = max(total["numel"], 1.0)
    return Progress(
        temperature=temperature(found),
        settled=total["settled"] / numel,
        soft_hard_gap=(total["gap"] / max(total["hard"], 1e-300)) ** 0.5,
        effective_bits=bits / numel,
    )


def figures(module: nn.Module) -> Dict[str, float]:
    """Return a module's `progress` under the names that logs have for it."""
    return {f"gq_{k}": v for k, v in dataclasses.asdict(progress(module)).items()}
