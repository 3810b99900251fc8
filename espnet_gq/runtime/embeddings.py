"""Packed embeddings; see `layers.py`."""

from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import nn

from espnet_gq.runtime import context
from espnet_gq.runtime.layers import PackedLayer
from espnet_gq.runtime.tensor_like import handles
from espnet_gq.runtime.weight import PackedWeight


class PackedEmbedding(PackedLayer, nn.Embedding):
    """Embedding with a packed weight (num_embeddings, embedding_dim); always exact.

    With `max_norm`, the rows that are read are scaled; the weight does not change.
    """

    float_class = nn.Embedding

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        weight: Any = self._modules.get("weight")
        if weight is None or not torch.is_tensor(input):
            return super().forward(input)
        return weight.embed(input, self.max_norm, self.norm_type)


class PackedEmbeddingBag(PackedLayer, nn.EmbeddingBag):
    """Sums, means or maxima of embeddings, with a packed weight (num_embeddings,
    embedding_dim); always exact. Each row that is used is unpacked once a call."""

    float_class = nn.EmbeddingBag


# --- PyTorch's functions --------------------------------------------------------------


@handles(F.embedding)
def _embedding(
    input,
    weight,
    padding_idx: Optional[int] = None,
    max_norm: Optional[float] = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
):
    """Look up rows; options of the weight's gradient have no effect."""
    if not isinstance(weight, PackedWeight) or isinstance(input, PackedWeight):
        return NotImplemented
    if weight.dim() != 2 or not torch.is_tensor(input):
        return NotImplemented
    return weight.embed(input, max_norm, norm_type)


@handles(torch.embedding)
def _rows(weight, indices, *options, **more):
    if not isinstance(weight, PackedWeight) or isinstance(indices, PackedWeight):
        return NotImplemented
    return NotImplemented if weight.dim() != 2 else weight.embed(indices)


@handles(F.embedding_bag)
def _bag(
    input,
    weight,
    offsets: Optional[torch.Tensor] = None,
    max_norm: Optional[float] = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Optional[torch.Tensor] = None,
    include_last_offset: bool = False,
    padding_idx: Optional[int] = None,
):
    """Look up the rows that are used; options of the weight's gradient have no
    effect."""
    if not isinstance(weight, PackedWeight) or isinstance(input, PackedWeight):
        return NotImplemented
    if weight.dim() != 2 or not torch.is_tensor(input):
        return NotImplemented
    used, places = torch.arange(weight.shape[0], device=input.device), input
    recorded = context.is_recorded(input) or context.is_transformed()
    if input.numel() and not (recorded or input.is_nested or input.is_meta):
        used, places = torch.unique(input, return_inverse=True)
        places = places.to(input.dtype)
        if padding_idx is not None:
            found = (used == padding_idx % weight.shape[0]).nonzero()
            padding_idx = int(found) if found.numel() else None
    return F.embedding_bag(
        places,
        weight.embed(used, max_norm, norm_type),
        offsets,
        mode=mode,
        per_sample_weights=per_sample_weights,
        include_last_offset=include_last_offset,
        padding_idx=padding_idx,
    )
