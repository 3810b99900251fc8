"""Backend: the fused pass over float32 weights on a CUDA device, in Triton.

Triton ships with PyTorch's CUDA builds; where it is absent or cannot compile, `usable`
is False. The mathematics and names are those of `assignment`, which explains them.
"""

import functools
import logging
import math
from typing import Tuple

import torch

from espnet_gq.native.library import HARD, SOFT

try:
    import triton
    import triton.language as tl
except ImportError:  # CPU builds of PyTorch have none
    triton = None

BLOCK = 1024


def usable(w: torch.Tensor, c: torch.Tensor) -> bool:
    """Return whether this backend takes weights w and centroids c."""
    return (
        triton is not None
        and w.is_cuda
        and w.dtype == torch.float32
        and w.numel() > 0
        and c.numel() & (c.numel() - 1) == 0  # 2^bits
        and _compiles(w.device)
    )


@functools.lru_cache(maxsize=None)
def _compiles(device: torch.device) -> bool:
    """Try both kernels once; say so and return False where they do not compile."""
    one = torch.ones(1, 1, device=device)
    c = torch.tensor([-1.0, 1.0], device=device)
    try:
        forward(one, one, one, c, SOFT, 3.0)
        backward(one, one, one, one, c, c, SOFT, 3.0)
        torch.cuda.synchronize(device)
        return True
    except Exception as e:
        logging.warning(
            "espnet_gq: the CUDA quantizer could not be compiled by Triton "
            f"({type(e).__name__}: {e}); plain PyTorch operations are used instead "
            "(same results, slower)."
        )
        return False


if triton is not None:
    OVERSHOOT = tl.constexpr(4.0)

    @triton.jit
    def _place(x, c_ptr, alpha, BITS: tl.constexpr):
        """Interval k, its centroids, position t and half, distance to the nearer
        centroid, weight a of the further one."""
        k = (x * 0.0).to(tl.int32)
        for b in tl.static_range(BITS):
            step = 1 << (BITS - 1 - b)
            k += tl.where(x >= tl.load(c_ptr + k + step), step, 0)
        k = tl.minimum(k, (1 << BITS) - 2)
        c0 = tl.load(c_ptr + k)
        c1 = tl.load(c_ptr + k + 1)
        t = (x - c0) / (c1 - c0)
        t = tl.minimum(tl.maximum(t, -OVERSHOOT), 1.0 + OVERSHOOT)
        upper = t >= 0.5
        near = tl.where(upper, 1.0 - t, t)
        a = tl.exp(-alpha * (1.0 - 2.0 * near))
        return k, c0, c1, t, upper, near, a

    @triton.jit
    def _window(k, upper, near, a, alpha, q2, BITS: tl.constexpr):
        """Unnormalised p of k-1, k, k+1, k+2, and one over their sum."""
        # Overflows far outside the outermost centroids, where it is masked away.
        beyond_near = tl.exp(-alpha * (1.0 + 2.0 * near))
        beyond_other = q2 * a * a
        pl = tl.where(k > 0, tl.where(upper, beyond_other, beyond_near), 0.0)
        pu = tl.where(
            k < (1 << BITS) - 2, tl.where(upper, beyond_near, beyond_other), 0.0
        )
        p0 = tl.where(upper, a, 1.0)
        p1 = tl.where(upper, 1.0, a)
        return pl, p0, p1, pu, 1.0 / (p0 + p1 + pl + pu)

    @triton.jit
    def _span(cols, blocks_per_row, SIZE: tl.constexpr):
        program = tl.program_id(0).to(tl.int64)
        row = program // blocks_per_row
        column = (program % blocks_per_row) * SIZE + tl.arange(0, SIZE)
        return program, row, row * cols + column, column < cols

    @triton.jit
    def _forward_kernel(
        w_ptr,
        out_ptr,
        scale_ptr,
        inv_ptr,
        c_ptr,
        cols,
        blocks_per_row,
        alpha,
        q2,
        PER_ROW: tl.constexpr,
        BITS: tl.constexpr,
        HARD: tl.constexpr,
        SIZE: tl.constexpr,
    ):
        _, row, at, mask = _span(cols, blocks_per_row, SIZE)
        scale_at = row if PER_ROW else row * 0
        s = tl.load(scale_ptr + scale_at)
        x = tl.load(w_ptr + at, mask=mask, other=0.0) * tl.load(inv_ptr + scale_at)
        k, c0, c1, t, upper, near, a = _place(x, c_ptr, alpha, BITS)
        if HARD:
            value = tl.where(x >= 0.5 * (c0 + c1), c1, c0)
        else:
            pl, p0, p1, pu, norm = _window(k, upper, near, a, alpha, q2, BITS)
            cl = tl.load(c_ptr + k - 1)
            cu = tl.load(c_ptr + k + 2)
            value = norm * (pl * cl + p0 * c0 + p1 * c1 + pu * cu)
        tl.store(out_ptr + at, tl.where(x == x, value * s, x), mask=mask)

    @triton.jit
    def _backward_kernel(
        w_ptr,
        grad_ptr,
        out_ptr,
        scale_ptr,
        inv_ptr,
        c_ptr,
        dc_ptr,
        sum_scale_ptr,
        sum_mu_ptr,
        cols,
        blocks_per_row,
        alpha,
        q2,
        PER_ROW: tl.constexpr,
        BITS: tl.constexpr,
        HARD: tl.constexpr,
        SIZE: tl.constexpr,
    ):
        program, row, at, mask = _span(cols, blocks_per_row, SIZE)
        scale_at = row if PER_ROW else row * 0
        s = tl.load(scale_ptr + scale_at)
        x = tl.load(w_ptr + at, mask=mask, other=0.0) * tl.load(inv_ptr + scale_at)
        g = tl.load(grad_ptr + at, mask=mask, other=0.0)
        k, c0, c1, t, upper, near, a = _place(x, c_ptr, alpha, BITS)
        d0 = tl.load(dc_ptr + k)
        d1 = tl.load(dc_ptr + k + 1)
        if HARD:
            high = x >= 0.5 * (c0 + c1)
            # The outermost cells are as wide outside as inside.
            away = tl.minimum(tl.abs(tl.where(upper, 1.0 - t, t)), 0.5)
            mirrored = tl.exp(-alpha * (1.0 - 2.0 * away))
            slope = 2.0 * alpha * mirrored / ((1.0 + mirrored) * (1.0 + mirrored))
            slope = tl.where((t >= -0.5) & (t <= 1.5), slope, 0.0)
            to_scale = tl.where(high, c1, c0)
            to_mu = tl.where(high, d1, d0)
        else:
            pl, p0, p1, pu, norm = _window(k, upper, near, a, alpha, q2, BITS)
            cl = tl.load(c_ptr + k - 1)
            cu = tl.load(c_ptr + k + 2)
            m = norm * (pl * cl + p0 * c0 + p1 * c1 + pu * cu)
            j = norm * (p1 - pl + 2.0 * pu)
            je = norm * (p1 * (c1 - c0) - pl * (cl - c0) + 2.0 * pu * (cu - c0))
            slope = 2.0 * alpha * (je - j * (m - c0)) / (c1 - c0)
            slope = tl.where((t > -OVERSHOOT) & (t < 1.0 + OVERSHOOT), slope, 0.0)
            dl = tl.load(dc_ptr + k - 1)
            du = tl.load(dc_ptr + k + 2)
            pd = norm * (pl * dl + p0 * d0 + p1 * d1 + pu * du)
            to_scale = m - x * slope
            to_mu = pd - slope * ((1.0 - t) * d0 + t * d1)
        tl.store(out_ptr + at, tl.where(x == x, g * slope, x), mask=mask)
        tl.store(sum_scale_ptr + program, tl.sum(g * to_scale, axis=0) * s)
        tl.store(sum_mu_ptr + program, tl.sum(g * to_mu, axis=0) * s)


def _padded(c: torch.Tensor) -> torch.Tensor:
    """Return c with zeros around it: the kernels read one index beyond either end."""
    return torch.nn.functional.pad(c, (1, 2))


def _grid(w: torch.Tensor, scale: torch.Tensor) -> Tuple[bool, int, int, int]:
    """Return (one scale per row, columns, blocks per row, programs)."""
    per_row = scale.numel() > 1
    rows, cols = w.shape if per_row else (1, w.numel())
    blocks = triton.cdiv(cols, BLOCK)
    return per_row, cols, blocks, rows * blocks


def forward(w, scale, inv_scale, c, mode: int, alpha: float = 1.0) -> torch.Tensor:
    """Return soft or hard weights; see `assignment.forward`."""
    w = w.contiguous()
    out = torch.empty_like(w)
    per_row, cols, blocks, programs = _grid(w, scale)
    with torch.cuda.device_of(w):  # Triton launches on the current device
        _forward_kernel[(programs,)](
            w,
            out,
            scale.contiguous(),
            inv_scale.contiguous(),
            _padded(c)[1:],
            cols,
            blocks,
            alpha,
            math.exp(-2.0 * alpha),
            PER_ROW=per_row,
            BITS=c.numel().bit_length() - 1,
            HARD=mode == HARD,
            SIZE=BLOCK,
        )
    return out


def backward(
    grad, w, scale, inv_scale, c, dc, mode: int, alpha: float
) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients for w, ln s and ln mu; see `assignment.backward`."""
    grad, w = grad.contiguous(), w.contiguous()
    out = torch.empty_like(w)
    per_row, cols, blocks, programs = _grid(w, scale)
    sums = torch.empty(2, programs, device=w.device, dtype=torch.float32)
    with torch.cuda.device_of(w):
        _backward_kernel[(programs,)](
            w,
            grad,
            out,
            scale.contiguous(),
            inv_scale.contiguous(),
            _padded(c)[1:],
            _padded(dc)[1:],
            sums[0],
            sums[1],
            cols,
            blocks,
            alpha,
            math.exp(-2.0 * alpha),
            PER_ROW=per_row,
            BITS=c.numel().bit_length() - 1,
            HARD=mode == HARD,
            SIZE=BLOCK,
        )
    totals = sums.double()
    by_row = totals[0].view(-1, blocks).sum(1).float()
    return out, by_row, totals[1].sum().float()
