"""Options of ESPnet's training that quantized layers cannot follow."""

import argparse
from typing import Any, Type

from espnet2.train.trainer import Trainer

from espnet_gq.espnet.classes.placement import check_placement, explain_unknown_options
from espnet_gq.espnet.sharing.plain_config import PARTS, PREFIX
from espnet_gq.nn import GQConfigError

UNSUPPORTED = {
    "use_deepspeed": "DeepSpeed has a trainer of its own, without the annealing",
    "sharded_ddp": "FairScale's optimizer does not count its steps",
    "use_adapter": "an adapter takes the place of a quantized layer",
}
"""Options that are on or off, and why they have to be off."""


def quantizes(args: argparse.Namespace) -> bool:
    """Return whether a training's options ask for quantized layers."""
    for part in PARTS:
        if (getattr(args, part, None) or "").lower().startswith(PREFIX):
            return True
        if (getattr(args, f"{part}_conf", None) or {}).get("gq_conf") is not None:
            return True
    return False


def check_options(args: argparse.Namespace) -> None:
    """Refuse a training that would not train the quantizers.

    Raises:
        GQConfigError: If quantized layers and an option of UNSUPPORTED are asked for.
    """
    if not quantizes(args):
        return
    for name, reason in UNSUPPORTED.items():
        if getattr(args, name, False):
            raise GQConfigError(
                f"{name} is true with quantized layers; allowed: false ({reason})"
            )


def check_at_start(task: Type[Any]) -> None:
    """Let a task check the options before it builds or starts anything.

    A float model keeps DeepSpeed, which ESPnet grants its own trainer only.
    """
    required = task.check_required_command_args.__func__
    worker = task.main_worker.__func__
    if getattr(worker, "gq", False):
        return
    ours = task.trainer

    def check_required_command_args(cls, args: argparse.Namespace):
        required(cls, args)
        check_options(args)

    def main_worker(cls, args: argparse.Namespace):
        cls.trainer = Trainer if args.use_deepspeed else ours
        worker(cls, args)

    setattr(main_worker, "gq", True)
    task.check_required_command_args = classmethod(check_required_command_args)
    task.main_worker = classmethod(main_worker)


def check_when_building(task: Type[Any]) -> None:
    """Let a task say what is wrong with the place of a `gq_conf`.

    Before a training does anything, and wherever else a model is built.
    """
    get_parser = task.get_parser.__func__
    required = task.check_required_command_args.__func__
    build = task.build_model.__func__
    if getattr(get_parser, "gq", False):
        return

    def get_parser_that_explains(cls):
        parser = get_parser(cls)
        explain_unknown_options(parser)
        return parser

    def check_required_command_args(cls, args: argparse.Namespace):
        check_placement(cls, args)
        required(cls, args)

    def build_model(cls, args: argparse.Namespace):
        check_placement(cls, args)
        return build(cls, args)

    setattr(get_parser_that_explains, "gq", True)
    task.get_parser = classmethod(get_parser_that_explains)
    task.check_required_command_args = classmethod(check_required_command_args)
    task.build_model = classmethod(build_model)
