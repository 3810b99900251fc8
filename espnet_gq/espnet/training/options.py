"""ESPnet's training options that quantized layers do not support."""

import argparse
from typing import Callable

from espnet2.train.trainer import Trainer

from espnet_gq.espnet.classes.placement import check_placement, explain_unknown_options
from espnet_gq.espnet.sharing.plain_config import PARTS, PREFIX
from espnet_gq.espnet.training.trainer import GQTrainer
from espnet_gq.nn import GQConfigError

UNSUPPORTED = {
    "use_deepspeed": "DeepSpeed has a trainer of its own, without the annealing",
    "sharded_ddp": "FairScale's optimizer does not count its steps",
    "use_adapter": "an adapter takes the place of a quantized layer",
}
"""Boolean option -> why it must be false."""


def quantizes(args: argparse.Namespace) -> bool:
    """Return whether a training's options select quantized layers."""
    for part in PARTS:
        if (getattr(args, part, None) or "").lower().startswith(PREFIX):
            return True
        if (getattr(args, f"{part}_conf", None) or {}).get("gq_conf") is not None:
            return True
    return False


def check_options(args: argparse.Namespace) -> None:
    """Refuse a training that would not train the quantizers.

    Raises:
        GQConfigError: If quantized layers meet an option of UNSUPPORTED.
    """
    if not quantizes(args):
        return
    for name, reason in UNSUPPORTED.items():
        if getattr(args, name, False):
            raise GQConfigError(
                f"{name} is true with quantized layers; allowed: false ({reason})"
            )


def get_parser(original: Callable) -> Callable:
    """Wrap a task's `get_parser`: its errors say where a `gq_conf` belongs."""

    def get_parser(cls):
        parser = original(cls)
        explain_unknown_options(parser)
        return parser

    return get_parser


def check_required_command_args(original: Callable) -> Callable:
    """Wrap a task's `check_required_command_args`: check the options of GQ as well."""

    def check_required_command_args(cls, args: argparse.Namespace):
        check_placement(cls, args)
        original(cls, args)
        check_options(args)

    return check_required_command_args


def main_worker(original: Callable) -> Callable:
    """Wrap a task's `main_worker`: select ESPnet's own trainer for DeepSpeed.

    ESPnet refuses DeepSpeed with any other; the model is float (see UNSUPPORTED).
    """

    def main_worker(cls, args: argparse.Namespace):
        cls.trainer = Trainer if args.use_deepspeed else GQTrainer
        original(cls, args)

    return main_worker
