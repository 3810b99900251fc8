"""Every difference between the supported ESPnet releases, in one place.

Supported: 202511 (Python 3.11) and 202611 (Python 3.12 and 3.13).
"""

import contextlib
import datetime
import os
from importlib.metadata import version
from typing import Any, Iterator, List, Tuple

import numpy as np

ASR_TASK_MODULES: Tuple[str, ...] = (
    "espnet2.tasks.asr",
    # 202611: ESPnet3 keeps a copy of the ASR task and of its class lists.
    "espnet3.systems.esp2_asr.task",
)
TRANSDUCER_TASK_MODULES: Tuple[str, ...] = ("espnet2.tasks.asr_transducer",)
LIGHTNING_CLASSES: Tuple[Tuple[str, str], ...] = (
    ("espnet2.train.lightning_espnet_model", "LitESPnetModel"),
    # 202611
    ("espnet3.components.modeling.lightning_module", "ESPnetLightningModule"),
)
AVERAGING_MODULES: Tuple[str, ...] = (
    "espnet2.train.lightning_callbacks",
    "espnet3.components.callbacks.default_callbacks",  # 202611
)
INIT_PARAM_MODULES: Tuple[str, ...] = (
    "espnet2.torch_utils.load_pretrained_model",
    "espnet2.tasks.abs_task",  # has its own name for it where it was imported first
)
PACK_MODULES: Tuple[str, ...] = (
    "espnet2.main_funcs.pack_funcs",
    "espnet2.bin.pack",  # has its own name for it where it was imported first
)
RENAMED_LAYERS: Tuple[Tuple[str, str], ...] = (
    # 202611 took the positional encoding out of the subsampling's last Sequential. It
    # renames the weights when it loads them; quantizers have to follow.
    ("embed.out.0.", "embed.out."),
)


def espnet_version() -> str:
    """Return the installed ESPnet release, such as "202511"."""
    return version("espnet")


def checkpoint_types() -> List[Any]:
    """Return the types that checkpoint.pth of 202511 holds besides what 202611's does.

    Its figures are NumPy numbers and time spans; to make one runs no code.
    """
    number = np.float64(0)
    return [
        *(datetime.timedelta, np.dtype, type(number.dtype)),
        number.__reduce__()[0],  # numpy's function that makes a number
    ]


@contextlib.contextmanager
def tensors_only() -> Iterator[None]:
    """Let every `torch.load` within the block read tensors and primitives only.

    202511 asks for whole pickles, which run code, wherever it loads a model.
    """
    switches = ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
    before = {name: os.environ.pop(name, None) for name in switches}
    os.environ[switches[0]] = "1"
    try:
        yield
    finally:
        del os.environ[switches[0]]
        os.environ.update({k: v for k, v in before.items() if v is not None})
