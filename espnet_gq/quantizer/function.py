"""The quantizer as an autograd function with O(numel) memory at every bit width.

Only the weights themselves (already held as a parameter), the scales and the codebook
are kept for the backward pass; everything else is computed again there.
"""

from typing import Optional, Protocol, Tuple

import torch

from espnet_gq.native.library import HARD
from espnet_gq.quantizer import assignment, fused
from espnet_gq.quantizer.mulaw import LOG_SCALES, codebook


class Backend(Protocol):
    """What computes the quantizer; `assignment` documents the functions."""

    def usable(self, w: torch.Tensor, c: torch.Tensor) -> bool: ...

    def forward(
        self, w, scale, inv_scale, c, mode: int, alpha: float
    ) -> torch.Tensor: ...

    def backward(
        self, grad, w, scale, inv_scale, c, dc, mode: int, alpha: float
    ) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]: ...


def backend(w: torch.Tensor, c: torch.Tensor) -> Backend:
    """Return what computes with weights w (rows, cols) and centroids c (levels,)."""
    found: Backend = fused
    if w.is_cuda:
        from espnet_gq.quantizer import triton_kernel  # loads Triton

        found = triton_kernel
    return found if found.usable(w, c) else assignment


def _work(w: torch.Tensor, log_scale: torch.Tensor) -> torch.Tensor:
    """Return w with one row per scale, in the type the mathematics runs in."""
    rows = log_scale.numel()
    w = w.detach().reshape(rows, w.numel() // rows)
    return w if w.dtype == torch.float64 else w.float()


def scale_pair(
    log_scale: torch.Tensor, dtype: torch.dtype
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Return s and 1 / s, shape (rows, 1) or (1, 1).

    ln s is limited to LOG_SCALES. The exponential is taken in float64 and rounded, so
    that every machine reads the same s from a packed ln s.
    """
    scale = log_scale.detach().double().clamp(*LOG_SCALES).exp().to(dtype).view(-1, 1)
    return scale, scale.reciprocal()


def hard_quantize(
    w: torch.Tensor, log_scale: torch.Tensor, c: torch.Tensor
) -> torch.Tensor:
    """Return w with every value moved to its nearest centroid; no gradient.

    Args:
        w: Weights of any shape; dimension 0 is the output channel.
        log_scale: ln s, (n,): scale i serves the i-th of n equal parts of dimension 0.
        c: Normalised centroids (levels,), ascending.
    """
    work = _work(w, log_scale)
    c = c.to(work.dtype)
    scale, inverse = scale_pair(log_scale, work.dtype)
    out = backend(work, c).forward(work, scale, inverse, c, HARD, 1.0)
    return out.to(w.dtype).view(w.shape)


def hard_indices(
    w: torch.Tensor, log_scale: torch.Tensor, c: torch.Tensor
) -> torch.Tensor:
    """Return the index of the nearest centroid of each weight, uint8, shape of w.

    Arguments as `hard_quantize`.
    """
    work = _work(w, log_scale)
    _, inverse = scale_pair(log_scale, work.dtype)
    index = assignment.hard_index(work * inverse, c.to(work.dtype))
    return index.to(torch.uint8).view(w.shape)


def _parameters(log_scale, log_mu, bits: int, work: torch.Tensor):
    """Return s, 1 / s, c and d c / d ln mu for weights `work`."""
    if work.is_cpu and work.dtype == torch.float32:
        found = fused.parameters(log_scale, log_mu, bits)
        if found is not None:
            return found
    return (*scale_pair(log_scale, work.dtype), *codebook(log_mu, bits, work.dtype))


class FakeQuantize(torch.autograd.Function):
    """w, ln s, ln mu -> quantized weights. See `fake_quantize`."""

    @staticmethod
    def forward(ctx, w, log_scale, log_mu, bits, mode, alpha, factors, slope_alpha):
        backward = (mode, alpha) if slope_alpha is None else (HARD, slope_alpha)
        ctx.options = (*backward, factors)
        found = fused.step_forward(w, log_scale, log_mu, bits, mode, alpha)
        if found is not None:
            ctx.scales = log_scale.numel()
            ctx.save_for_backward(w, found[1])
            return found[0]
        ctx.scales = 0
        work = _work(w, log_scale)
        scale, inverse, c, dc = _parameters(log_scale, log_mu, bits, work)
        out = backend(work, c).forward(work, scale, inverse, c, mode, alpha)
        ctx.save_for_backward(w, scale, inverse, c, dc)
        ctx.shapes = [(t.shape, t.dtype) for t in (w, log_scale, log_mu)]
        return out.to(w.dtype).view(w.shape)

    @staticmethod
    def backward(ctx, grad):
        # The check takes a part of a small tensor's time: not where it is not needed.
        if torch.is_grad_enabled():
            return FakeQuantize._once(ctx, grad)
        return FakeQuantize._backward(ctx, grad)

    @staticmethod
    def _backward(ctx, grad):
        mode, alpha, factors = ctx.options
        if ctx.scales:
            w, numbers = ctx.saved_tensors
            to_w, to_scale, to_mu = fused.step_backward(
                grad, w, numbers, ctx.scales, mode, alpha
            )
            to_scale.mul_(factors[0])
            to_mu.mul_(factors[1])
            return to_w, to_scale, to_mu, None, None, None, None, None
        w, scale, inverse, c, dc = ctx.saved_tensors
        work = _work(w, scale)
        grad = grad.reshape(work.shape).to(work.dtype)
        to_w, to_scale, to_mu = backend(work, c).backward(
            grad, work, scale, inverse, c, dc, mode, alpha
        )
        grads = (to_w, to_scale * factors[0], to_mu * factors[1])
        return (
            *(g.to(dtype).view(shape) for g, (shape, dtype) in zip(grads, ctx.shapes)),
            *(None,) * 5,
        )

    _once = staticmethod(torch.autograd.function.once_differentiable(_backward))


def fake_quantize(
    w: torch.Tensor,
    log_scale: torch.Tensor,
    log_mu: torch.Tensor,
    bits: int,
    mode: int,
    alpha: float,
    factors: Tuple[float, float] = (1.0, 1.0),
    slope_alpha: Optional[float] = None,
) -> torch.Tensor:
    """Quantize weights in a way that trains.

    Args:
        w: Weights of any shape; dimension 0 is the output channel. The mathematics
            runs in float32 (float64 for float64 weights) whatever autocast says.
        log_scale: ln s, shape (n,), n a divisor of w.shape[0]: scale i serves the i-th
            of n equal parts of dimension 0.
        log_mu: ln mu, one element.
        bits: Bit width, 1 to 8.
        mode: SOFT (soft forward and its own gradient) or HARD (nearest centroid
            forward, slope of the soft assignment backward).
        alpha: Inverse temperature of the soft assignment.
        factors: Multipliers of the gradients of ln s and ln mu.
        slope_alpha: The backward pass is that of HARD at this inverse temperature,
            whatever the forward pass.

    Returns:
        Tensor of the shape and type of w.
    """
    return FakeQuantize.apply(
        *(w, log_scale, log_mu, bits, mode, float(alpha), factors, slope_alpha)
    )
