"""The fused C pass over float32 weights on the CPU, called through ctypes.

`available()` is False where the library was not built; callers then use the plain
PyTorch functions of `assignment`, whose results these reproduce.
"""

import ctypes
import functools
from pathlib import Path
from typing import Optional, Tuple

import torch

from espnet_gq import native

SOFT, HARD = 0, 1


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    pointer, size, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    tail = [size, size, number, number, number, ctypes.c_float, number, number]
    library.gq_forward.argtypes = [pointer] * 5 + tail
    library.gq_backward.argtypes = [pointer] * 9 + tail
    library.gq_set_team.argtypes = [pointer]
    library.gq_set_team.restype = None
    library.gq_set_team(native.torch_team())
    return library


@functools.lru_cache(maxsize=None)
def _library() -> Optional[ctypes.CDLL]:
    library = native.load(
        Path(__file__).parent,
        "_fused",
        "the fused CPU quantizer was not built, so training on a CPU uses plain "
        "PyTorch operations (same results, slower)",
    )
    return None if library is None else _declared(library)


def available() -> bool:
    """Return whether the compiled library is there."""
    return _library() is not None


@functools.lru_cache(maxsize=None)
def best_isa() -> int:
    """Return the widest instruction set: 0 generic, 1 AVX2, 2 AVX-512."""
    return _library().gq_best_isa()


def usable(w: torch.Tensor) -> bool:
    """Return whether the fused pass can take these weights."""
    return (
        w.device.type == "cpu"
        and w.dtype == torch.float32
        and type(w) in (torch.Tensor, torch.nn.Parameter)  # has memory of its own
        and not torch._C._functorch.is_functorch_wrapped_tensor(w)
        and available()
    )


def _options(w, scale, c, mode: int, alpha: float, isa: Optional[int]) -> tuple:
    """Return what both functions take after their pointers."""
    return (
        *w.shape,
        scale.numel() > 1,
        c.numel().bit_length() - 1,
        mode,
        alpha,
        torch.get_num_threads(),
        best_isa() if isa is None else isa,
    )


def _check(status: int) -> None:
    if status == 2:
        raise MemoryError("the fused quantizer found no memory for its sums")
    if status:
        raise ValueError("the fused quantizer was called with arguments out of range")


def forward(
    w: torch.Tensor,
    scale: torch.Tensor,
    inv_scale: torch.Tensor,
    c: torch.Tensor,
    mode: int,
    alpha: float = 1.0,
    isa: Optional[int] = None,
) -> torch.Tensor:
    """Return soft or hard weights; arguments as `assignment.soft_forward`.

    Args:
        w: float32 weights (rows, cols).
        scale, inv_scale: Contiguous (rows, 1) or (1, 1).
        c: Contiguous (2^bits,).
        mode: SOFT or HARD.
        alpha: Inverse temperature.
        isa: Use a lower instruction set than the machine's best (for tests).
    """
    w = w.contiguous()
    out = torch.empty_like(w)
    _check(
        _library().gq_forward(
            w.data_ptr(),
            out.data_ptr(),
            scale.data_ptr(),
            inv_scale.data_ptr(),
            c.data_ptr(),
            *_options(w, scale, c, mode, alpha, isa),
        )
    )
    return out


def backward(
    grad: torch.Tensor,
    w: torch.Tensor,
    scale: torch.Tensor,
    inv_scale: torch.Tensor,
    c: torch.Tensor,
    dc: torch.Tensor,
    mode: int,
    alpha: float,
    isa: Optional[int] = None,
) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients for w, ln s and ln mu, as `assignment.soft_backward`."""
    grad, w = grad.contiguous(), w.contiguous()
    out = torch.empty_like(w)
    grad_scale = w.new_empty(scale.numel())
    grad_mu = w.new_empty(())
    _check(
        _library().gq_backward(
            w.data_ptr(),
            grad.data_ptr(),
            out.data_ptr(),
            grad_scale.data_ptr(),
            grad_mu.data_ptr(),
            scale.data_ptr(),
            inv_scale.data_ptr(),
            c.data_ptr(),
            dc.data_ptr(),
            *_options(w, scale, c, mode, alpha, isa),
        )
    )
    return out, grad_scale, grad_mu
