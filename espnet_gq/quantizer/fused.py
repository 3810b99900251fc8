"""The fused C pass over float32 weights on the CPU, called through ctypes.

`available()` is False where the library was not built; callers then use the plain
PyTorch functions of `assignment`, whose results these reproduce.
"""

import ctypes
import functools
import importlib.machinery
import logging
from pathlib import Path
from typing import Optional, Tuple

import torch

SOFT, HARD = 0, 1


@functools.lru_cache(maxsize=None)
def _library() -> Optional[ctypes.CDLL]:
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = Path(__file__).with_name("_fused" + suffix)
        if path.exists():
            try:
                return ctypes.CDLL(str(path))
            except OSError as e:
                logging.warning(f"{path} cannot be loaded ({e})")
    logging.warning(
        "espnet_gq: the fused CPU quantizer was not built, so training on a CPU uses "
        "plain PyTorch operations (same results, slower); a C compiler (gcc or clang) "
        "and 'pip install --force-reinstall --no-deps espnet-gq' build it."
    )
    return None


def available() -> bool:
    """Return whether the compiled library is there."""
    return _library() is not None


@functools.lru_cache(maxsize=None)
def best_isa() -> int:
    """Return the widest instruction set: 0 generic, 1 AVX2, 2 AVX-512."""
    return _library().gq_best_isa()


def usable(w: torch.Tensor) -> bool:
    """Return whether the fused pass can take these weights."""
    return w.device.type == "cpu" and w.dtype == torch.float32 and available()


def _pointer(t: torch.Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(t.data_ptr())


def _shape(w: torch.Tensor, scale: torch.Tensor) -> tuple:
    rows, cols = w.shape
    return ctypes.c_int64(rows), ctypes.c_int64(cols), int(scale.numel() > 1)


def _tail(c: torch.Tensor, mode: int, alpha: float, isa: Optional[int]) -> tuple:
    return (
        c.numel().bit_length() - 1,
        mode,
        ctypes.c_float(alpha),
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
        mode: SOFT or HARD. isa: Use a lower instruction set (for tests).
    """
    w = w.contiguous()
    out = torch.empty_like(w)
    _check(
        _library().gq_forward(
            _pointer(w),
            _pointer(out),
            _pointer(scale.contiguous()),
            _pointer(inv_scale.contiguous()),
            _pointer(c),
            *_shape(w, scale),
            *_tail(c, mode, alpha, isa),
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
    grad_scale = torch.empty(scale.numel())
    grad_mu = torch.empty(())
    _check(
        _library().gq_backward(
            _pointer(w),
            _pointer(grad),
            _pointer(out),
            _pointer(grad_scale),
            _pointer(grad_mu),
            _pointer(scale.contiguous()),
            _pointer(inv_scale.contiguous()),
            _pointer(c),
            _pointer(dc),
            *_shape(w, scale),
            *_tail(c, mode, alpha, isa),
        )
    )
    return out, grad_scale, grad_mu
