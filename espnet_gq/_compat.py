"""Differences between the supported ESPnet releases.

The names that the plugin extends in each are listed in `espnet_gq.espnet.holds`.

Supported: 202511 (Python 3.11) and 202611 (Python 3.12 and 3.13).
"""

import contextlib
import datetime
from contextvars import ContextVar
from importlib.metadata import version
from typing import Any, Iterator, List, Tuple

import numpy as np
import torch

RENAMED_LAYERS: Tuple[Tuple[str, str], ...] = (
    # 202611 moved the positional encoding out of the last Sequential of the
    # subsampling. It renames the weights on loading; quantizers have to follow.
    ("embed.out.0.", "embed.out."),
)


def espnet_version() -> str:
    """Return the installed ESPnet release, such as "202511"."""
    return version("espnet")


S2T_CTC_INFERENCE = (
    "espnet2.bin.s2t_inference_ctc:Speech2TextGreedySearch"
    if espnet_version() < "202611"
    else "espnet2.bin.s2t_inference:Speech2Text"
)
"""ESPnet's class that decodes with CTC models of the task s2t_ctc, "module:class"."""


def checkpoint_types() -> List[Any]:
    """Return the types in a checkpoint.pth of 202511 that one of 202611 does not have.

    202511 stores statistics as NumPy scalars and `timedelta`; unpickling these runs no
    code.
    """
    number = np.float64(0)
    return [
        *(datetime.timedelta, np.dtype, type(number.dtype)),
        number.__reduce__()[0],  # NumPy's constructor of scalars
    ]


_tensors_only: ContextVar[bool] = ContextVar("tensors_only", default=False)


@contextlib.contextmanager
def tensors_only() -> Iterator[None]:
    """Within the block, `load` reads only tensors and primitive types.

    202511 loads models with `weights_only=False`, which lets a pickle run code.
    """
    token = _tensors_only.set(True)
    try:
        yield
    finally:
        _tensors_only.reset(token)


def load(f: Any, *args: Any, **kwargs: Any) -> Any:
    """`torch.load` for ESPnet's modules (see `torch_proxy`)."""
    if not _tensors_only.get():
        return torch.load(f, *args, **kwargs)
    with torch.serialization.safe_globals(checkpoint_types()):
        return torch.load(f, *args, **{**kwargs, "weights_only": True})
