"""Differences between the supported ESPnet releases, but for the names that are held.

Those are in `espnet_gq.espnet.holds`.

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


_tensors_only: ContextVar[bool] = ContextVar("tensors_only", default=False)


@contextlib.contextmanager
def tensors_only() -> Iterator[None]:
    """Within the block, `load` reads tensors and primitives only.

    202511 asks for whole pickles, which run code, wherever it loads a model.
    """
    token = _tensors_only.set(True)
    try:
        yield
    finally:
        _tensors_only.reset(token)


def load(f: Any, *args: Any, **kwargs: Any) -> Any:
    """Load as `torch.load` does: what ESPnet's modules call (see `torch_proxy`)."""
    if not _tensors_only.get():
        return torch.load(f, *args, **kwargs)
    with torch.serialization.safe_globals(checkpoint_types()):
        return torch.load(f, *args, **{**kwargs, "weights_only": True})
