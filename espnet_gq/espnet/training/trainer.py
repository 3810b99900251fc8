"""The training hook: advances the annealing and reports it.

ESPnet's Trainer has no callbacks. Steps are counted by a hook of the optimizer, which
runs once a real step: not within `accum_grad`, and not where AMP or a gradient that is
not finite skips the step. Figures reach ESPnet's log, TensorBoard and `images/` with
the first batch of a validation and every batch of training.
"""

import dataclasses
import logging
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, Sized, cast

import torch
from espnet2.train.trainer import Trainer

from espnet_gq._compat import tensors_only
from espnet_gq.analysis.size import count_module
from espnet_gq.espnet.inference.loading import fitting
from espnet_gq.espnet.training.checkpointing import CHECKPOINT, finish_epoch
from espnet_gq.espnet.training.gradients import named_when_not_finite
from espnet_gq.espnet.training.length import (
    compare_lengths,
    follow_configuration,
    say_if_unfinished,
    set_total_steps,
)
from espnet_gq.files import atomic_files
from espnet_gq.nn.finite import check_finite
from espnet_gq.nn.prepare import advance, fit_quantizers, progress
from espnet_gq.quantizer import Quantizer


class _Observed:
    """An iterator of batches that reports figures before it hands out a batch."""

    def __init__(self, batches: Iterable, report: Callable[[int], None]):
        self.batches = batches
        self.report = report

    def __len__(self) -> int:
        return len(cast(Sized, self.batches))

    def __iter__(self) -> Iterator:
        for index, batch in enumerate(self.batches):
            self.report(index)
            yield batch


def _quantizers(model: torch.nn.Module) -> List[Quantizer]:
    return [m for m in model.modules() if isinstance(m, Quantizer)]


def _check_options(quantizers: List[Quantizer], options) -> None:
    """Refuse what would change the strength of a method's penalty.

    Raises:
        ValueError: If gradients are scaled or summed.
    """
    if any(q.adds_gradient for q in quantizers):
        for name, allowed in (("use_amp", False), ("accum_grad", 1)):
            if getattr(options, name) != allowed:
                raise ValueError(
                    f"{name} is {getattr(options, name)} with a gq_conf.method that "
                    f"adds a penalty; allowed: {allowed}"
                )


def start_annealing(model: torch.nn.Module) -> None:
    """Begin a new annealing on the weights as they now are.

    Raises:
        ValueError: If a weight is NaN or infinite; names the tensor.
    """
    quantizers = _quantizers(model)
    for quantizer in quantizers:
        quantizer.step = 0
        quantizer.total_steps = quantizer.annealing.steps or 0
    if not any(quantizer.annealing.warmup_steps for quantizer in quantizers):
        fit_quantizers(model)
    counted = count_module(model)
    logging.info(
        f"GQ: {len(quantizers)} tensors with {counted.quantized:,} parameters, "
        f"{counted}, quantized to {counted.bits:.2f} bits; {counted.buffers:,} values "
        "in buffers"
    )


def figures(model: torch.nn.Module) -> Dict[str, Any]:
    """Return what is reported of the annealing, by the names of the log."""
    return {f"gq_{k}": v for k, v in dataclasses.asdict(progress(model)).items()}


class GQTrainer(Trainer):
    """ESPnet's trainer; for a model with quantized layers, also its annealing.

    Models without quantized layers train as with ESPnet's own trainer. Files are
    written atomically, an interrupted training resumes exactly (`checkpointing`), and
    values that are not finite are named (`gradients`).
    """

    @classmethod
    def run(cls, model, optimizers, trainer_options, **kwargs) -> None:
        """Perform training; arguments as ESPnet's `Trainer.run`."""
        options = trainer_options
        with tensors_only():
            checkpoint = Path(options.output_dir) / CHECKPOINT
            if options.resume and checkpoint.exists():
                distributed = kwargs["distributed_option"]
                first = not distributed.distributed or distributed.dist_rank == 0
                options = finish_epoch(options, write=first)
            cls._run(model, optimizers, options, **kwargs)

    _compared = False
    """Whether the length of the training that runs was compared with its annealing."""

    @staticmethod
    def resume(checkpoint, **kwargs) -> None:
        """Continue from a checkpoint; arguments as ESPnet's `Trainer.resume`."""
        with fitting(checkpoint):
            Trainer.resume(checkpoint=checkpoint, **kwargs)
        follow_configuration(_quantizers(kwargs["model"]))

    @classmethod
    def _run(cls, model, optimizers, trainer_options, **kwargs) -> None:
        handles = []
        quantizers = _quantizers(model)
        cls._compared = False
        if quantizers:
            _check_options(quantizers, trainer_options)
            checkpoint = Path(trainer_options.output_dir) / CHECKPOINT
            if not (trainer_options.resume and checkpoint.exists()):
                start_annealing(model)
            handles.append(
                optimizers[0].register_step_post_hook(lambda *_: advance(model))
            )
        try:
            super().run(
                model=model,
                optimizers=optimizers,
                trainer_options=trainer_options,
                **kwargs,
            )
        finally:
            for handle in handles:
                handle.remove()
        say_if_unfinished(quantizers)

    @classmethod
    def _set_total_steps(cls, quantizers, iterator, options) -> None:
        try:
            epoch = len(iterator) // options.accum_grad
        except TypeError:
            set_total_steps(quantizers, None)
            return
        total = max(epoch * options.max_epoch, 1)
        set_total_steps(quantizers, total)
        if not cls._compared:
            cls._compared = True
            compare_lengths(quantizers, total, slack=epoch / 2)

    @classmethod
    def train_one_epoch(cls, model, iterator, reporter, options, **kwargs) -> bool:
        """Train one epoch; arguments as ESPnet's `Trainer.train_one_epoch`."""
        quantizers = _quantizers(model)
        if quantizers:
            cls._set_total_steps(quantizers, iterator, options)

            def report(index: int) -> None:
                alphas = [q.alpha for q in quantizers]
                reporter.register({"gq_temperature": sum(alphas) / len(alphas)})

            iterator = _Observed(iterator, report)
        with named_when_not_finite(model):
            return super().train_one_epoch(
                model=model,
                iterator=iterator,
                reporter=reporter,
                options=options,
                **kwargs,
            )

    @classmethod
    def validate_one_epoch(cls, model, iterator, reporter, **kwargs) -> None:
        """Validate; arguments as ESPnet's `Trainer.validate_one_epoch`."""
        if _quantizers(model):
            check_finite(model.named_parameters())  # before they become a checkpoint

            def report(index: int) -> None:
                if index == 0:
                    reporter.register(figures(model))

            iterator = _Observed(iterator, report)
        super().validate_one_epoch(
            model=model, iterator=iterator, reporter=reporter, **kwargs
        )

    @classmethod
    def plot_attention(cls, *, output_dir, **kwargs) -> None:
        """Plot attention; arguments as ESPnet's `Trainer.plot_attention`."""
        if output_dir is None:
            super().plot_attention(output_dir=None, **kwargs)
            return
        with atomic_files(output_dir) as temporary:
            super().plot_attention(output_dir=temporary, **kwargs)
