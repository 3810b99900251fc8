"""The training hook: advances the annealing and reports it.

ESPnet's Trainer has no callbacks. Steps are counted by a hook of the optimizer, which
runs once a real step: not within `accum_grad`, and not where AMP or a gradient that is
not finite skips the step. Figures reach ESPnet's log, TensorBoard and `images/` with
the first batch of a validation and every batch of training.
"""

from pathlib import Path
from typing import Callable, Iterable, Iterator, Sized, cast

from espnet2.train.trainer import Trainer

from espnet_gq._compat import tensors_only
from espnet_gq.espnet.inference.loading import fitting
from espnet_gq.espnet.training.checkpointing import CHECKPOINT, finish_epoch
from espnet_gq.espnet.training.gradients import named_when_not_finite
from espnet_gq.files import atomic_files
from espnet_gq.nn import training
from espnet_gq.nn.finite import check_finite
from espnet_gq.nn.length import (
    compare_lengths,
    follow_configuration,
    say_if_unfinished,
    set_total_steps,
)


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
        follow_configuration(training.quantizers(kwargs["model"]))

    @classmethod
    def _run(cls, model, optimizers, trainer_options, **kwargs) -> None:
        handles = []
        quantizers = training.quantizers(model)
        cls._compared = False
        if quantizers:
            amp, accumulated = trainer_options.use_amp, trainer_options.accum_grad
            training.check_gradients(
                *(model, amp, accumulated),
                options=f"use_amp is {amp} and accum_grad {accumulated}",
            )
            checkpoint = Path(trainer_options.output_dir) / CHECKPOINT
            if not (trainer_options.resume and checkpoint.exists()):
                training.start(model)
            handles.append(training.count_steps(model, optimizers[0]))
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
        quantizers = training.quantizers(model)
        if quantizers:
            cls._set_total_steps(quantizers, iterator, options)

            def report(index: int) -> None:
                alpha = training.temperature(quantizers)
                reporter.register({"gq_temperature": alpha})

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
        if training.quantizers(model):
            check_finite(model.named_parameters())  # before they become a checkpoint

            def report(index: int) -> None:
                if index == 0:
                    reporter.register(training.figures(model))

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
