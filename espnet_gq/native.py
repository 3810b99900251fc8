"""Finding and loading the compiled libraries of the package."""

import ctypes
import importlib.machinery
import logging
from pathlib import Path
from typing import Optional

import torch

TORCH_LIBRARIES = Path(torch.__file__).with_name("lib")


def load(folder: Path, name: str, lost: str) -> Optional[ctypes.CDLL]:
    """Return a library that `pip install` built, None where it could not.

    Args:
        folder: Folder of the module that the library belongs to.
        name: File name without its suffix.
        lost: What the warning says of working without it.
    """
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = folder / (name + suffix)
        if path.exists():
            try:
                return ctypes.CDLL(str(path))
            except OSError as e:
                logging.warning(f"{path} cannot be loaded ({e})")
    logging.warning(
        f"espnet_gq: {lost}; a C and C++ compiler (gcc or clang) and 'pip install "
        "--force-reinstall --no-deps espnet-gq' build what is missing."
    )
    return None


def torch_team() -> Optional[int]:
    """Return the address of GOMP_parallel in the OpenMP runtime that PyTorch uses.

    None where PyTorch uses another runtime; a library then starts its own threads.
    """
    try:
        torch_cpu = ctypes.CDLL(str(next(TORCH_LIBRARIES.glob("libtorch_cpu.*"))))
        return ctypes.cast(torch_cpu.GOMP_parallel, ctypes.c_void_p).value
    except (StopIteration, OSError, AttributeError):
        return None
