"""The compiled kernels, called through ctypes. `csrc/api.h` documents the functions.

`library()` is None where they were not built; PyTorch operations then take their place.
The kernels believe what they are told of memory: see `native.address`.
"""

import ctypes
import functools
from pathlib import Path
from typing import Optional, Tuple

from espnet_gq import native

MODES = {"exact": 0, "int8": 1}
CELLS = {"LSTM": 0, "GRU": 1}

_pointer, _size, _number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int


class Weight(ctypes.Structure):
    """The C interface's gq_weight."""

    _fields_ = [
        *((name, _pointer) for name in ("planes", "codebook", "scale", "bias")),
        *((name, _size) for name in ("rows", "cols", "scales")),
        ("bits", _number),
    ]


@functools.lru_cache(maxsize=None)
def library() -> Optional[ctypes.CDLL]:
    """Return the library, None (and one warning) where it was not built."""
    found = native.load(
        Path(__file__).parent,
        "_kernels",
        "the packed CPU kernels were not built, so packed models run as float ones "
        "(same results, neither memory nor time saved)",
    )
    if found is None:
        return None
    p, n, i, w = _pointer, _size, _number, ctypes.POINTER(Weight)
    for name, arguments in dict(
        gq_planes_size=[n, n, i],
        gq_fill_planes=[p, n, n, i, p],
        gq_linear=[w, p, n, p, i, i, i],
        gq_values=[w, n, n, p, i, i],
        gq_rows=[w, p, n, p],
        gq_recurrence=[i, w, w, n, p, p, n, i, p, p, p, n, i, i, i],
        gq_read=[p, n, i, i],
        gq_isa_name=[i],
        gq_isa_count=[],
        gq_set_team=[p],
    ).items():
        getattr(found, name).argtypes = arguments
    found.gq_planes_size.restype = n
    found.gq_read.restype = ctypes.c_uint64
    found.gq_isa_name.restype = ctypes.c_char_p
    found.gq_set_team.restype = None
    found.gq_set_team(native.torch_team())
    return found


def available() -> bool:
    """Return whether the compiled library is there."""
    return library() is not None


def instruction_sets() -> Tuple[str, ...]:
    """Return the names of the instruction sets of this machine, best first."""
    found = library()
    if found is None:
        return ()
    return tuple(found.gq_isa_name(i).decode() for i in range(found.gq_isa_count()))


def check(status: int) -> None:
    """Raise what the status of a call means."""
    if status == 2:
        raise MemoryError("the packed kernels found no memory for their activations")
    if status:
        raise ValueError("the packed kernels were called with arguments out of range")
