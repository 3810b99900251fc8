"""Loading the native library, and handing it memory.

`csrc/api.h` documents the functions. They cannot check the memory behind a pointer:
`address` is the only place where a tensor becomes a pointer, and it checks the tensor
at every call.
"""

import ctypes
import functools
import importlib.machinery
import logging
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import torch

SOFT, HARD = 0, 1
"""Modes of the quantizer."""
MODES = {"exact": 0, "int8": 1}
"""Modes of packed products."""
CELLS = {"LSTM": 0, "GRU": 1}

TORCH_LIBRARIES = Path(torch.__file__).with_name("lib")

_pointer, _size, _number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int


class Codebook(ctypes.Structure):
    """The C interface's gq_codebook."""

    _fields_ = [
        *((name, _pointer) for name in ("c", "scale", "inv_scale")),
        *((name, _number) for name in ("bits", "per_row")),
    ]


class Weight(ctypes.Structure):
    """The C interface's gq_weight."""

    _fields_ = [
        *((name, _pointer) for name in ("planes", "codebook", "scale", "bias")),
        *((name, _size) for name in ("rows", "cols", "scales")),
        ("bits", _number),
    ]


class Direction(ctypes.Structure):
    """The C interface's gq_direction."""

    _fields_ = [(name, _pointer) for name in ("ih", "hh", "hr", "b_ih", "b_hh")]


def _declare(library: ctypes.CDLL) -> None:
    p, n, i, f = _pointer, _size, _number, ctypes.c_float
    q, w = ctypes.POINTER(Codebook), ctypes.POINTER(Weight)
    functions: Dict[str, List[Any]] = dict(
        gq_isa_count=[],
        gq_isa_name=[i],
        gq_set_team=[p],
        gq_read=[p, n, i, i],
        gq_mulaw=[p, n, p, p, p, i, p, p, p, p],
        gq_forward=[q, p, n, n, p, i, f, i, i],
        gq_backward=[q, p, p, p, n, n, p, p, p, i, f, i, i],
        gq_planes_size=[n, n, i],
        gq_fill_planes=[p, n, n, i, p],
        gq_linear=[w, p, n, p, i, i, i],
        gq_values=[w, n, n, p, i, i],
        gq_rows=[w, p, n, p],
        gq_recurrence=[i, w, w, n, p, p, n, i, p, p, p, n, i, i, i],
        gq_stack=[i, p, n, n, n, p, p, n, p, p, p, i, i, i],
    )
    for name, arguments in functions.items():
        getattr(library, name).argtypes = arguments
    library.gq_isa_name.restype = ctypes.c_char_p
    library.gq_set_team.restype = None
    library.gq_read.restype = ctypes.c_uint64
    library.gq_planes_size.restype = n


def load(path: Path) -> ctypes.CDLL:
    """Return the library in a file, ready to be called.

    Raises:
        OSError: If it cannot be loaded.
    """
    library = ctypes.CDLL(str(path))
    _declare(library)
    library.gq_set_team(torch_team())
    return library


@functools.lru_cache(maxsize=None)
def loaded() -> Optional[ctypes.CDLL]:
    """Return the library, None (and one warning) where it was not built."""
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_native{suffix}")
        if path.exists():
            try:
                return load(path)
            except OSError as e:
                logging.warning(f"{path} cannot be loaded ({e})")
    logging.warning(
        "espnet_gq: the native library was not built. Training on a CPU uses plain "
        "PyTorch operations (same results, slower), and packed models run as float "
        "ones (same results, neither memory nor time saved). With a C++ compiler (g++ "
        "or clang++), 'pip install --force-reinstall --no-deps espnet-gq' builds it."
    )
    return None


def available() -> bool:
    """Return whether the library was built."""
    return loaded() is not None


def instruction_sets() -> Tuple[str, ...]:
    """Return the names of the instruction sets of this machine, best first.

    The number of one in this tuple is the argument `isa` of the library's functions.
    """
    library = loaded()
    if library is None:
        return ()
    return tuple(library.gq_isa_name(i).decode() for i in range(library.gq_isa_count()))


def check(status: int) -> None:
    """Raise what the status of a call means."""
    if status == 2:
        raise MemoryError("the native library found no memory to work in")
    if status:
        raise ValueError("the native library was called with arguments out of range")


def address(tensor: torch.Tensor, dtype: torch.dtype, size: int, what: str) -> int:
    """Return the address of the first element of a tensor.

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

    None where PyTorch uses another runtime; the library then starts its own threads.
    """
    try:
        torch_cpu = ctypes.CDLL(str(next(TORCH_LIBRARIES.glob("libtorch_cpu.*"))))
        return ctypes.cast(torch_cpu.GOMP_parallel, ctypes.c_void_p).value
    except (StopIteration, OSError, AttributeError):
        return None
