"""Makes ESPnet know the quantized classes, the trainer and the packed checkpoint."""

import importlib.abc
import importlib.util
import sys
from types import ModuleType
from typing import Dict

from espnet_gq._compat import ASR_TASK_MODULES


def register(task_module: ModuleType) -> None:
    """Register with one of ESPnet's ASR task modules (see ASR_TASK_MODULES).

    Raises:
        RuntimeError: If ESPnet already has a class under one of the names.
    """
    from espnet_gq.espnet.decoders import DECODERS
    from espnet_gq.espnet.encoders import ENCODERS
    from espnet_gq.espnet.loading import extend_build_model_from_file
    from espnet_gq.espnet.model import MODELS
    from espnet_gq.espnet.trainer import GQTrainer

    _add(task_module.encoder_choices, ENCODERS)
    _add(task_module.decoder_choices, DECODERS)
    _add(task_module.model_choices, MODELS)
    task_module.ASRTask.trainer = GQTrainer
    extend_build_model_from_file(task_module.ASRTask)


def _add(choices, classes: Dict[str, type]) -> None:
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
        register(module)

    def __getattr__(self, name):
        return getattr(self.loader, name)


class _Finder(importlib.abc.MetaPathFinder):
    """Puts _RegisterAfter around the loaders of ESPnet's ASR task modules."""

    def __init__(self):
        self.searching = False

    def find_spec(self, fullname, path=None, target=None):
        if fullname not in ASR_TASK_MODULES or self.searching:
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
    """Register now with the task modules already imported, else at their import."""
    for name in ASR_TASK_MODULES:
        if name in sys.modules:
            register(sys.modules[name])
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
