"""Backend: the fused C++ pass over float32 weights on a CPU (native/csrc/quantizer).

It gives the results of `assignment`, whose docstrings explain them.
"""

import ctypes
from typing import Optional, Tuple

import torch

from espnet_gq.native import address, available, library
from espnet_gq.native.library import Codebook, check
from espnet_gq.quantizer.mulaw import LOG_SCALES, MAX_LOG_MU, MIN_LOG_MU

PLAIN = (torch.Tensor, torch.nn.Parameter)
"""Tensors that have memory of their own."""
_SCALE_RANGE = (ctypes.c_double * 2)(*LOG_SCALES)
_MU_RANGE = (ctypes.c_double * 2)(MIN_LOG_MU, MAX_LOG_MU)
LEVELS = (2, 4, 8, 16, 32, 64, 128, 256)


def usable(w: torch.Tensor, c: torch.Tensor) -> bool:
    """Return whether this backend takes weights w and centroids c."""
    return (
        w.device.type == "cpu"
        and w.dtype == torch.float32
        and type(w) in PLAIN
        and not torch._C._functorch.is_functorch_wrapped_tensor(w)
        and c.numel() in LEVELS
        and available()
    )


def _address(tensor: torch.Tensor, size: int, what: str) -> int:
    return address(tensor, torch.float32, size, what)


def _check_shape(tensor: torch.Tensor, like: torch.Tensor, what: str) -> None:
    if tensor.shape != like.shape:
        raise ValueError(
            f"{what} have shape {tuple(tensor.shape)}; allowed: {tuple(like.shape)}"
        )


def _codebook(w, scale, inv_scale, c) -> Codebook:
    """Return what the weights are quantized with, as the library takes it."""
    if w.dim() != 2 or scale.shape not in ((1, 1), (len(w), 1)):
        raise ValueError(
            f"scales of shape {tuple(scale.shape)} for weights of shape "
            f"{tuple(w.shape)}; allowed: (1, 1) or (rows, 1) for (rows, cols)"
        )
    if c.dim() != 1 or c.numel() not in LEVELS:
        raise ValueError(
            f"centroids of shape {tuple(c.shape)}; allowed: (2,), (4,), ..., (256,)"
        )
    _check_shape(inv_scale, scale, "the inverse scales")
    return Codebook(
        _address(c, c.numel(), "the centroids"),
        _address(scale, scale.numel(), "the scales"),
        _address(inv_scale, scale.numel(), "the inverse scales"),
        c.numel().bit_length() - 1,
        scale.numel() > 1,
    )


def _built():
    found = library.loaded()
    if found is None:
        raise RuntimeError("the native library was not built")
    return found


def parameters(
    log_scale: torch.Tensor, log_mu: torch.Tensor, bits: int
) -> Optional[Tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Return s, 1 / s, c and d c / d ln mu in one call; None where it cannot be made.

    The values of `function.scale_pair` and `mulaw.codebook`, but for the last bit of
    float64, before they are rounded to float32.
    """
    n, levels = log_scale.numel(), 2**bits
    if not (
        log_scale.is_cpu
        and log_mu.is_cpu
        and log_scale.dtype == log_mu.dtype == torch.float32
        and log_scale.is_contiguous()
        and type(log_scale) in PLAIN
        and available()
    ):
        return None
    found = torch.empty(2 * (n + levels), dtype=torch.float32)
    at = _address(found, found.numel(), "the result")
    check(
        _built().gq_mulaw(
            *(_address(log_scale, n, "ln s"), n, _SCALE_RANGE),
            *(_address(log_mu, 1, "ln mu"), _MU_RANGE, bits),
            *(at, at + 4 * n, at + 8 * n, at + 8 * n + 4 * levels),
        )
    )
    scale, inverse, c, dc = found.split((n, n, levels, levels))
    return scale.view(n, 1), inverse.view(n, 1), c, dc


def _is_plain(tensor: torch.Tensor) -> bool:
    """Return whether a tensor is float32 in contiguous memory of its own."""
    return (
        tensor.dtype is torch.float32
        and tensor.is_cpu
        and tensor.is_contiguous()
        and type(tensor) in PLAIN
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    )


def step_forward(
    w: torch.Tensor,
    log_scale: torch.Tensor,
    log_mu: torch.Tensor,
    bits: int,
    mode: int,
    alpha: float,
) -> Optional[Tuple[torch.Tensor, torch.Tensor]]:
    """Return `forward` of `parameters` where nothing has to be converted, else None.

    A training step calls it for each tensor of a model, and small tensors take less
    time than the checks of other ways.

    Returns:
        The weights, shape of w; and s, 1 / s, c and d c / d ln mu, one after the other,
        for `step_backward`.
    """
    if not (_is_plain(w) and _is_plain(log_scale) and _is_plain(log_mu)):
        return None
    kernels = library.loaded()
    n, levels = log_scale.numel(), 2**bits
    if kernels is None or log_mu.numel() != 1 or w.numel() % n:
        return None
    numbers = torch.empty(2 * (n + levels), dtype=torch.float32, device="cpu")
    at, out = numbers.data_ptr(), torch.empty_like(w)
    c = at + 8 * n
    made = kernels.gq_mulaw(
        *(log_scale.data_ptr(), n, _SCALE_RANGE, log_mu.data_ptr(), _MU_RANGE, bits),
        *(at, at + 4 * n, c, c + 4 * levels),
    )
    check(
        made
        or kernels.gq_forward(
            *(Codebook(c, at, at + 4 * n, bits, n > 1), w.data_ptr()),
            *(n, w.numel() // n, out.data_ptr()),
            *(mode, alpha, torch.get_num_threads(), 0),
        )
    )
    return out, numbers


def step_backward(
    grad: torch.Tensor,
    w: torch.Tensor,
    numbers: torch.Tensor,
    scales: int,
    mode: int,
    alpha: float,
) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients for w, ln s (scales,) and ln mu (1,).

    Args:
        grad: Gradient for the result of `step_forward`, shape of w.
        w, numbers, scales: As there.
        mode, alpha: Of the backward pass.
    """
    _check_shape(grad, w, "the gradients")
    levels = numbers.numel() // 2 - scales
    grad = grad.contiguous()
    numbers_at = _address(numbers, numbers.numel(), "the codebook")
    c = numbers_at + 8 * scales
    out, to_scale, to_mu = torch.empty_like(grad), w.new_empty(scales), w.new_empty(1)
    check(
        _built().gq_backward(
            Codebook(
                *(c, numbers_at, numbers_at + 4 * scales),
                *(levels.bit_length() - 1, scales > 1),
            ),
            c + 4 * levels,
            _address(w, w.numel(), "the weights"),
            _address(grad, w.numel(), "the gradients"),
            *(scales, w.numel() // scales),
            *(out.data_ptr(), to_scale.data_ptr(), to_mu.data_ptr()),
            *(mode, alpha, torch.get_num_threads(), 0),
        )
    )
    return out, to_scale, to_mu


def forward(
    w: torch.Tensor,
    scale: torch.Tensor,
    inv_scale: torch.Tensor,
    c: torch.Tensor,
    mode: int,
    alpha: float = 1.0,
    isa: int = 0,
) -> torch.Tensor:
    """Return soft or hard weights; see `assignment.forward`.

    Args:
        isa: Number of an instruction set (`native.instruction_sets`), for tests.
    """
    w = w.contiguous()
    out = torch.empty_like(w)
    check(
        _built().gq_forward(
            _codebook(w, scale, inv_scale, c),
            _address(w, w.numel(), "the weights"),
            *w.shape,
            _address(out, w.numel(), "the result"),
            *(mode, alpha, torch.get_num_threads(), isa),
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
    isa: int = 0,
) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients for w, ln s and ln mu; see `assignment.backward`."""
    _check_shape(grad, w, "the gradients")
    _check_shape(dc, c, "the derivatives of the centroids")
    grad, w = grad.contiguous(), w.contiguous()
    out = torch.empty_like(w)
    grad_scale = w.new_empty(scale.numel())
    grad_mu = w.new_empty(())
    check(
        _built().gq_backward(
            _codebook(w, scale, inv_scale, c),
            _address(dc, c.numel(), "the derivatives of the centroids"),
            _address(w, w.numel(), "the weights"),
            _address(grad, w.numel(), "the gradients"),
            *w.shape,
            _address(out, w.numel(), "the result"),
            _address(grad_scale, scale.numel(), "the gradient of the scales"),
            _address(grad_mu, 1, "the gradient of mu"),
            *(mode, alpha, torch.get_num_threads(), isa),
        )
    )
    return out, grad_scale, grad_mu
