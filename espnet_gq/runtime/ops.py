"""The packed product as a torch operator, for torch.compile and torch.export.

Eager code calls the kernels without it: for small layers the dispatcher would take
longer than the product.
"""

from typing import Optional

import torch

from espnet_gq.runtime.weight import PackedWeight


@torch.library.custom_op("espnet_gq::packed_linear", mutates_args=())
def packed_linear(
    x: torch.Tensor,
    planes: torch.Tensor,
    codebook: torch.Tensor,
    scale: torch.Tensor,
    bias: Optional[torch.Tensor],
    rows: int,
    int8: bool,
) -> torch.Tensor:
    """Return x w^T + bias; see `PackedWeight.linear`."""
    weight = PackedWeight(planes, (rows, x.shape[-1]), codebook, scale)
    weight.mode = "int8" if int8 else "exact"
    return weight.linear(x, bias)


@packed_linear.register_fake
def _(x, planes, codebook, scale, bias, rows, int8):
    return x.new_empty(*x.shape[:-1], rows)
