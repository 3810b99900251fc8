"""The fused C pass over float32 weights on the CPU, called through ctypes.

`available()` is False where the library was not built; callers then use the plain
PyTorch functions of `assignment`, whose results these reproduce.
"""

import ctypes
import functools
from pathlib import Path
from typing import Any, List, Optional, Tuple, Type

import torch

from espnet_gq import native

SOFT, HARD = 0, 1


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    pointer, size, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    tail: List[Type[Any]] = [size, size, number, number, number]
    tail += [ctypes.c_float, number, number]
    library.gq_forward.argtypes = [*[pointer] * 5, *tail]
    library.gq_backward.argtypes = [*[pointer] * 9, *tail]
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


def _built() -> ctypes.CDLL:
    """Return the library.

    Raises:
        RuntimeError: If it is not `available`.
    """
    library = _library()
    if library is None:
        raise RuntimeError("the fused CPU quantizer was not built")
    return library


@functools.lru_cache(maxsize=None)
def best_isa() -> int:
    """Return the widest instruction set: 0 generic, 1 AVX2, 2 AVX-512."""
    return _built().gq_best_isa()


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


def _address(tensor: torch.Tensor, size: int, what: str) -> int:
    return native.address(tensor, torch.float32, size, what)


def _codebook(w, scale, inv_scale, c) -> Tuple[int, int, int]:
    """Return the addresses of what the weights are quantized with."""
    if w.dim() != 2 or scale.numel() not in (1, len(w)):
        raise ValueError(
            f"{scale.numel()} scales for weights of shape {tuple(w.shape)}; allowed: "
            "one for all rows, or one per row"
        )
    if c.numel() not in (2, 4, 8, 16, 32, 64, 128, 256):
        raise ValueError(f"{c.numel()} centroids; allowed: 2, 4, ..., 256")
    return (
        _address(scale, scale.numel(), "the scales"),
        _address(inv_scale, scale.numel(), "the inverse scales"),
        _address(c, c.numel(), "the centroids"),
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
        _built().gq_forward(
            _address(w, w.numel(), "the weights"),
            _address(out, w.numel(), "the result"),
            *_codebook(w, scale, inv_scale, c),
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
        _built().gq_backward(
            _address(w, w.numel(), "the weights"),
            _address(grad, w.numel(), "the gradient"),
            _address(out, w.numel(), "the result"),
            _address(grad_scale, scale.numel(), "the gradient of the scales"),
            _address(grad_mu, 1, "the gradient of mu"),
            *_codebook(w, scale, inv_scale, c),
            _address(dc, c.numel(), "the derivative of the centroids"),
            *_options(w, scale, c, mode, alpha, isa),
        )
    )
    return out, grad_scale, grad_mu
