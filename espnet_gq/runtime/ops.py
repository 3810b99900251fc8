"""Packed weights as torch operators: for torch.compile, torch.export and tracing.

Eager code calls the kernels directly: for small layers the dispatcher would take longer
than the product. Weights are passed as planes, codebook and scale.
"""

from typing import List, Optional, Tuple

import torch

from espnet_gq.runtime.steps import Steps
from espnet_gq.runtime.weight import PackedWeight


def _weight(parts, rows: int, cols: int, int8: bool = False) -> PackedWeight:
    planes, codebook, scale = parts
    weight = PackedWeight(planes, (rows, cols), codebook, scale)
    weight.mode = "int8" if int8 else "exact"
    return weight


def _check_devices(*tensors: Optional[torch.Tensor]) -> None:
    """Raise where operands are on several devices, "meta" among them."""
    devices = sorted({str(t.device) for t in tensors if t is not None})
    if len(devices) > 1:
        raise RuntimeError(f"operands are on {', '.join(devices)}; allowed: one device")


@torch.library.custom_op("espnet_gq::packed_linear", mutates_args=())
def packed_linear(
    x: torch.Tensor,
    planes: torch.Tensor,
    codebook: torch.Tensor,
    scale: torch.Tensor,
    bias: Optional[torch.Tensor],
    rows: int,
    cols: int,
    int8: bool,
) -> torch.Tensor:
    """Return x w^T + bias; see `PackedWeight.linear`."""
    weight = _weight((planes, codebook, scale), rows, cols, int8)
    return weight.compute(x, bias)


@packed_linear.register_fake
def _(x, planes, codebook, scale, bias, rows, cols, int8):
    _check_devices(x, planes, codebook, scale, bias)
    if x.dim() == 0 or x.shape[-1] != cols:
        raise RuntimeError(
            f"activations of shape {tuple(x.shape)} for a packed weight of shape "
            f"{(rows, cols)}; allowed: (..., {cols})"
        )
    return x.new_empty(*x.shape[:-1], rows)


def _keep_parts(ctx, inputs, output):
    _, planes, codebook, scale, _, ctx.rows, ctx.cols, _ = inputs
    ctx.save_for_backward(planes, codebook, scale)


def _linear_backward(ctx, grad):
    to_x = to_bias = None
    if ctx.needs_input_grad[0]:
        values = packed_values(*ctx.saved_tensors, ctx.rows, ctx.cols)
        to_x = grad @ values.to(grad.dtype)
    if ctx.needs_input_grad[4]:
        to_bias = grad.sum_to_size(grad.shape[-1])
    return to_x, None, None, None, to_bias, None, None, None


packed_linear.register_autograd(_linear_backward, setup_context=_keep_parts)


@torch.library.custom_op("espnet_gq::packed_values", mutates_args=())
def packed_values(
    planes: torch.Tensor,
    codebook: torch.Tensor,
    scale: torch.Tensor,
    rows: int,
    cols: int,
) -> torch.Tensor:
    """Return the weight in float32, (rows, cols)."""
    return _weight((planes, codebook, scale), rows, cols).compute_values()


@packed_values.register_fake
def _(planes, codebook, scale, rows, cols):
    _check_devices(planes, codebook, scale)
    return codebook.new_empty(rows, cols)


@torch.library.custom_op("espnet_gq::packed_rows", mutates_args=())
def packed_rows(
    row: torch.Tensor,
    planes: torch.Tensor,
    codebook: torch.Tensor,
    scale: torch.Tensor,
    rows: int,
    cols: int,
) -> torch.Tensor:
    """Return rows of the weight in float32; see `PackedWeight.embed`."""
    return _weight((planes, codebook, scale), rows, cols).compute_rows(row)


@packed_rows.register_fake
def _(row, planes, codebook, scale, rows, cols):
    _check_devices(row, planes, codebook, scale)
    return codebook.new_empty(*row.shape, cols)


@torch.library.custom_op("espnet_gq::packed_steps", mutates_args=())
def packed_steps(
    cell: str,
    gates: torch.Tensor,
    h: torch.Tensor,
    c: Optional[torch.Tensor],
    hh: List[torch.Tensor],
    hr: List[torch.Tensor],
    bias: Optional[torch.Tensor],
    sizes: Optional[torch.Tensor],
    reverse: bool,
    int8_hh: bool,
    int8_hr: bool,
) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return what `steps.Steps` does; c is empty for a GRU.

    Args:
        hh, hr: Planes, codebook and scale, or a float matrix; hr may be empty.
        int8_hh, int8_hr: Whether they compute in mode int8.
    """
    outputs, units = h.shape[-1], h.shape[-1] if c is None else c.shape[-1]
    steps = Steps(
        cell,
        _matrix(hh, gates.shape[-1], outputs, int8_hh),
        _matrix(hr, outputs, units, int8_hr),
        sizes,
        reverse,
    )
    with torch.no_grad():
        out, h, c = steps.compute(gates, h, c, bias)
    return out, h, h.new_empty(0) if c is None else c


def _matrix(given: List[torch.Tensor], rows: int, cols: int, int8: bool):
    if len(given) == 3:
        return _weight(given, rows, cols, int8)
    return given[0] if given else None


@packed_steps.register_fake
def _(cell, gates, h, c, hh, hr, bias, sizes, reverse, int8_hh, int8_hr):
    _check_devices(gates, h, c, *hh, *hr, bias)
    out = gates.new_empty(*gates.shape[:-1], h.shape[-1])
    return (
        out,
        torch.empty_like(h),
        h.new_empty(0) if c is None else torch.empty_like(c),
    )
