"""Finding and loading the compiled libraries of the package, and what they are given.

Compiled code believes what it is told of memory: `address` is the only place where a
tensor becomes a pointer, and it looks at the tensor at every call.
"""

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


def address(tensor: torch.Tensor, dtype: torch.dtype, size: int, what: str) -> int:
    """Return where the numbers of a tensor begin, for the kernels.

    Args:
        tensor: A contiguous tensor in the memory of the CPU.
        dtype: The type that it has to have.
        size: The number of elements that it has to have.
        what: Its name in the message.

    Raises:
        TypeError: If it is of another type, on another device, or not in plain memory.
        ValueError: If it has another size or is not contiguous.
    """
    if (
        tensor.dtype is dtype
        and tensor.is_cpu
        and tensor.numel() == size
        and tensor.is_contiguous()
    ):
        found = tensor.data_ptr()
        if (found or not size) and not tensor.is_neg():
            return found
        raise TypeError(f"{what} has no memory of its own; allowed: a plain tensor")
    if tensor.dtype is not dtype or not tensor.is_cpu:
        raise TypeError(
            f"{what} is {tensor.dtype} on {tensor.device}; allowed: {dtype} on cpu"
        )
    raise ValueError(
        f"{what} has shape {tuple(tensor.shape)} and strides {tensor.stride()}; "
        f"allowed: {size} contiguous elements"
    )


def torch_team() -> Optional[int]:
    """Return the address of GOMP_parallel in the OpenMP runtime that PyTorch uses.

    None where PyTorch uses another runtime; a library then starts its own threads.
    """
    try:
        torch_cpu = ctypes.CDLL(str(next(TORCH_LIBRARIES.glob("libtorch_cpu.*"))))
        return ctypes.cast(torch_cpu.GOMP_parallel, ctypes.c_void_p).value
    except (StopIteration, OSError, AttributeError):
        return None
