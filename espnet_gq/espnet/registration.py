"""Makes ESPnet know the quantized classes, the trainer and the packed checkpoint."""

import argparse
import importlib.abc
import importlib.util
import sys
from types import ModuleType
from typing import Any, Callable, Dict, Mapping, Type

from espnet_gq._compat import (
    ASR_TASK_MODULES,
    AVERAGING_MODULES,
    INIT_PARAM_MODULES,
    LIGHTNING_CLASSES,
    PACK_MODULES,
    TRANSDUCER_TASK_MODULES,
)
from espnet_gq.espnet.training.transducer_loss import provide_when_missing


def register_asr(task_module: ModuleType) -> None:
    """Register with one of ESPnet's ASR task modules (see ASR_TASK_MODULES).

    Raises:
        RuntimeError: If ESPnet already has a class under one of the names.
    """
    from espnet_gq.espnet.classes.decoders import DECODERS
    from espnet_gq.espnet.classes.encoders import ENCODERS
    from espnet_gq.espnet.classes.model import MODELS

    _add(task_module.encoder_choices, ENCODERS)
    _add(task_module.decoder_choices, DECODERS)
    _add(task_module.model_choices, MODELS)
    _extend(task_module.ASRTask)
    _build_transducers(task_module)


def _build_transducers(task_module: ModuleType) -> None:
    """Let the ASR task build transducers with a quantized decoder.

    The task tells a transducer, and that a joint network is needed, by the decoder's
    name: for the time of building, "transducer" is the quantized class.
    """
    from espnet_gq.espnet.classes.decoders import GQTransducerDecoder

    original = task_module.ASRTask.build_model.__func__
    if getattr(original, "gq", False):
        return
    classes = task_module.decoder_choices.classes

    def build_model(cls, args):
        name = getattr(args, "decoder", None)
        if name is None or name.lower() != GQTransducerDecoder.gq_name:
            return original(cls, args)
        plain = classes["transducer"]
        args.decoder, classes["transducer"] = "transducer", GQTransducerDecoder
        try:
            return original(cls, args)
        finally:
            args.decoder, classes["transducer"] = name, plain

    setattr(build_model, "gq", True)
    task_module.ASRTask.build_model = classmethod(build_model)


def register_transducer(task_module: ModuleType) -> None:
    """Register with ESPnet's second transducer task.

    Raises:
        RuntimeError: If ESPnet already has a class under one of the names, or no
            longer builds its model from the names that are replaced.
    """
    from espnet_gq.espnet.classes import transducer_task as ours

    _add(task_module.decoder_choices, ours.DECODERS)
    for name, cls in (
        ("Encoder", ours.GQTransducerEncoder),
        ("ESPnetASRTransducerModel", ours.GQESPnetASRTransducerModel),
    ):
        if not issubclass(cls, getattr(task_module, name, type(None))):
            raise RuntimeError(
                f"{task_module.__name__}.{name} is not what espnet_gq replaces; "
                "allowed: an ESPnet release that espnet_gq supports"
            )
        setattr(task_module, name, cls)
    _extend(task_module.ASRTransducerTask)


def _extend(task: Type[Any]) -> None:
    from espnet_gq.espnet.inference.audio import check_before_decoding
    from espnet_gq.espnet.inference.loading import extend_build_model_from_file
    from espnet_gq.espnet.training.atomic_files import write_config_aside
    from espnet_gq.espnet.training.options import check_at_start, check_when_building
    from espnet_gq.espnet.training.trainer import GQTrainer

    task.trainer = GQTrainer
    check_at_start(task)
    check_when_building(task)
    write_config_aside(task)
    extend_build_model_from_file(task)
    check_before_decoding(task)


def register_lightning(module: ModuleType) -> None:
    """Register with one of ESPnet's Lightning modules (see LIGHTNING_CLASSES)."""
    import torch

    from espnet_gq.espnet.training.lightning import bring_callback

    bring_callback(getattr(module, dict(LIGHTNING_CLASSES)[module.__name__]))
    # Lightning stores ESPnet's options in its checkpoints. torch.load, which runs no
    # code of a checkpoint, would refuse to read them: no resuming and no averaging.
    torch.serialization.add_safe_globals([argparse.Namespace])


def register_averaging(module: ModuleType) -> None:
    """Register with one of the modules that average checkpoints for Lightning."""
    from espnet_gq.espnet.training.atomic_files import average_aside

    average_aside(module.AverageCheckpointsCallback)


def register_results(module: ModuleType) -> None:
    """Register with espnet2.fileio.datadir_writer."""
    from espnet_gq.espnet.training.atomic_files import write_results_aside

    write_results_aside(module)


def register_sharing(module: ModuleType) -> None:
    """Register with one of the modules that have ESPnet's `pack` (PACK_MODULES)."""
    from espnet_gq.espnet.sharing.model_zip import share_from_stage_14

    share_from_stage_14(module)


def register_init_param(module: ModuleType) -> None:
    """Register with one of the modules that load --init_param (INIT_PARAM_MODULES)."""
    from espnet_gq.espnet.inference.loading import check_init_param

    check_init_param(module)


REGISTER: Dict[str, Callable[[ModuleType], None]] = {}
REGISTER.update({name: register_asr for name in ASR_TASK_MODULES})
REGISTER.update({name: register_transducer for name in TRANSDUCER_TASK_MODULES})
REGISTER.update({name: register_lightning for name, _ in LIGHTNING_CLASSES})
REGISTER.update({name: register_averaging for name in AVERAGING_MODULES})
REGISTER.update({name: register_init_param for name in INIT_PARAM_MODULES})
REGISTER["espnet2.fileio.datadir_writer"] = register_results
REGISTER.update({name: register_sharing for name in PACK_MODULES})
"""ESPnet's modules to extend, and what to do once one of them is imported."""


def _add(choices, classes: Mapping[str, type]) -> None:
    for name, cls in classes.items():
        known = choices.classes.setdefault(name, cls)
        if known is not cls:
            raise RuntimeError(
                f"ESPnet already has {choices.name} '{name}' ({known.__module__}); "
                "espnet_gq cannot register its own"
            )


class _RegisterAfter(importlib.abc.Loader):
    """Loads a module as its own loader does, then registers with it."""

    def __init__(self, loader):
        self.loader = loader

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        self.loader.exec_module(module)
        REGISTER[module.__name__](module)

    def __getattr__(self, name):
        return getattr(self.loader, name)


class _Finder(importlib.abc.MetaPathFinder):
    """Puts _RegisterAfter around the loaders of the modules of REGISTER."""

    def __init__(self):
        self.searching = False

    def find_spec(self, fullname, path=None, target=None):
        if fullname not in REGISTER or self.searching:
            return None
        self.searching = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self.searching = False
        if spec is not None and spec.loader is not None:
            spec.loader = _RegisterAfter(spec.loader)
        return spec


def register_when_imported() -> None:
    """Register now with the modules already imported, else at their import.

    Also provides the transducer loss where `warprnnt_pytorch` is missing.
    """
    provide_when_missing()
    for name, register in REGISTER.items():
        if name in sys.modules:
            register(sys.modules[name])
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
