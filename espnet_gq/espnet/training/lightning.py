"""The training hook of Lightning: advances the annealing and reports it.

ESPnet trains through Lightning with `use_lightning` and in ESPnet3. Their modules bring
the callback along where the plugin is registered; any other script lists it itself.
"""

import argparse
from typing import Any, Callable, Dict, List, Optional, Sequence, Union

import torch
from espnet2.torch_utils.load_pretrained_model import load_pretrained_model
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.hooks import RemovableHandle

from espnet_gq.nn import GQConfigError, training
from espnet_gq.nn.finite import check_finite
from espnet_gq.nn.length import (
    compare_lengths,
    follow_configuration,
    say_if_unfinished,
    set_total_steps,
)


class GQCallback(Callback):
    """Anneals the quantized layers of what Lightning trains; idle where there are none.

    A training begins with an annealing on the weights as they then are; one that is
    resumed (`ckpt_path`) continues, since the checkpoint's state dict has all of it.
    Steps of the optimizer are counted, not batches. `train/gq_temperature` is logged
    at every batch, the other figures (`valid/gq_*`) at every validation.

        trainer = lightning.Trainer(callbacks=[GQCallback()], max_epochs=10)

    Args:
        init_param: Checkpoints to begin with, as ESPnet's `--init_param` takes them;
            not read where a training is resumed.
        ignore_init_mismatch: Leave out what does not fit the model.
    """

    def __init__(
        self,
        init_param: Union[str, Sequence[str]] = (),
        ignore_init_mismatch: bool = False,
    ):
        self.init_param = [init_param] if isinstance(init_param, str) else init_param
        self.ignore_init_mismatch = ignore_init_mismatch
        self._handle: Optional[RemovableHandle] = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what the quantizers cannot follow.

        Raises:
            GQConfigError: If the strategy cuts the weights in pieces, or a method
                refuses how gradients are scaled or accumulated.
        """
        if stage != "fit" or not training.quantizers(pl_module):
            return
        if not isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy)):
            raise GQConfigError(
                f"the Lightning strategy is {type(trainer.strategy).__name__} and the "
                "model has quantized layers; allowed: one device, or ddp"
            )
        precision, batches = trainer.precision, trainer.accumulate_grad_batches
        training.check_gradients(
            *(pl_module, precision == "16-mixed", batches),
            options=f"the trainer's precision is {precision} and its "
            f"accumulate_grad_batches {batches}",
        )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the annealing, unless a checkpoint was loaded."""
        if trainer.ckpt_path is not None or not training.quantizers(pl_module):
            return
        model = getattr(pl_module, "model", pl_module)
        for path in self.init_param:
            rank_zero_info(f"Loading pretrained params from {path}")
            load_pretrained_model(path, model, self.ignore_init_mismatch)
        training.start(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the steps of the optimizer from here on.

        Raises:
            ValueError: If `annealing.steps` is not set and the length of the training
                is unknown.
        """
        self._stop_counting()
        quantizers = training.quantizers(pl_module)
        if not quantizers:
            return
        total = trainer.estimated_stepping_batches
        known = 0 < total < float("inf")  # -1: neither steps nor batches are known
        steps = int(total) if known else None
        follow_configuration(quantizers)
        set_total_steps(quantizers, steps)
        compare_lengths(quantizers, steps)
        self._handle = training.count_steps(pl_module, trainer.optimizers[0])

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Log the temperature that the batch is trained with."""
        quantizers = training.quantizers(pl_module)
        if quantizers:
            pl_module.log("train/gq_temperature", training.temperature(quantizers))

    def on_validation_epoch_start(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> None:
        """Log how far the annealing has come.

        Raises:
            NotFiniteError: If weights have become NaN or infinite; names them.
        """
        if trainer.sanity_checking or not training.quantizers(pl_module):
            return
        check_finite(pl_module.named_parameters())  # before they become a checkpoint
        pl_module.log_dict(
            {f"valid/{key}": v for key, v in training.figures(pl_module).items()},
            sync_dist=True,
        )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop counting; say where the annealing has not come to its end."""
        self._stop_counting()
        say_if_unfinished(training.quantizers(pl_module))

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Stop counting."""
        self._stop_counting()

    def _stop_counting(self) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None


def configure_callbacks(original: Callable) -> Callable:
    """Wrap a Lightning module's `configure_callbacks`: it brings the callback along.

    The checkpoints to begin with come from the module's configuration (`init_param`),
    which ESPnet itself does not read where Lightning trains.
    """
    # Lightning stores ESPnet's options in its checkpoints. torch.load, which runs no
    # code of a checkpoint, would refuse to read them: no resuming and no averaging.
    torch.serialization.add_safe_globals([argparse.Namespace])

    def configure_callbacks(self) -> List[Callback]:
        callbacks = original(self)
        if not isinstance(callbacks, Sequence):
            callbacks = [callbacks]
        given = any(isinstance(c, GQCallback) for c in self.trainer.callbacks)
        if given or not training.quantizers(self):
            return list(callbacks)
        return [*callbacks, GQCallback(**_initial_parameters(self))]

    return configure_callbacks


def _initial_parameters(module: LightningModule) -> Dict[str, Any]:
    if hasattr(module, "args"):  # ESPnet2: all options
        given = vars(module.args)
    else:  # ESPnet3: the task's options are the configuration of the model
        config: Any = module.config
        given = config.get("model") or {}
    return {
        "init_param": given.get("init_param") or (),
        "ignore_init_mismatch": bool(given.get("ignore_init_mismatch")),
    }
