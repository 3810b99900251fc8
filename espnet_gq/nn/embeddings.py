"""Embeddings with a quantizer on their weight; see `layers.py`."""

from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import nn

from espnet_gq.nn.layers import QuantizedLayer


class QuantizedLookup(QuantizedLayer):
    """Base class of the quantized embeddings."""

    @classmethod
    def from_float(cls, layer, quantizers):
        for quantizer in quantizers.values():
            quantizer.idle_row = layer.padding_idx
        return super().from_float(layer, quantizers)

    def _limit_rows(self, indices: torch.Tensor) -> None:
        """Limit the parameter's rows to `max_norm` in training, as PyTorch does.

        Evaluation equals the hardened layer, which limits rows that are quantized.
        """
        layer: Any = self
        if layer.max_norm is not None and self.training:
            with torch.no_grad():
                weight, rows = self.latent_weight(), indices.reshape(-1).contiguous()
                torch.embedding_renorm_(weight, rows, layer.max_norm, layer.norm_type)


class QuantizedEmbedding(QuantizedLookup, nn.Embedding):
    """Embedding, weight (num_embeddings, embedding_dim) quantized.

    The row of `padding_idx` is quantized like any other. A codebook with a zero (LSQ's,
    the ternary one at 2 bits) keeps it zero. Other codebooks have none: with one scale
    per tensor, padding is embedded as the centroids nearest to zero; with one per
    channel, the scale of that row is too small to matter.

    `max_norm` limits the quantized rows that are looked up, and in training those of
    the parameter too, as nn.Embedding does. Gradients are dense also with
    `sparse=True`.
    """

    float_class = nn.Embedding

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        self._limit_rows(input)
        rows = F.embedding(
            input,
            self.weight_in_use(),
            self.padding_idx,
            scale_grad_by_freq=self.scale_grad_by_freq,
        )
        if self.max_norm is None:
            return rows
        return limited(rows, self.max_norm, self.norm_type)


class QuantizedEmbeddingBag(QuantizedLookup, nn.EmbeddingBag):
    """Sums, means or maxima of embeddings, weight (num_embeddings, embedding_dim)
    quantized.

    `max_norm` and `sparse` are those of `QuantizedEmbedding`.
    """

    float_class = nn.EmbeddingBag

    def forward(
        self,
        input: torch.Tensor,
        offsets: Optional[torch.Tensor] = None,
        per_sample_weights: Optional[torch.Tensor] = None,
    ) -> torch.Tensor:
        self._limit_rows(input)
        weight = self.weight_in_use()
        if self.max_norm is not None:
            weight = limited(weight, self.max_norm, self.norm_type)
        return F.embedding_bag(
            input,
            weight,
            offsets,
            mode=self.mode,
            scale_grad_by_freq=self.scale_grad_by_freq,
            per_sample_weights=per_sample_weights,
            include_last_offset=self.include_last_offset,
            padding_idx=self.padding_idx,
        )


def limited(rows: torch.Tensor, max_norm: float, norm_type: float) -> torch.Tensor:
    """Return vectors (..., n); those longer than `max_norm` are scaled down to it.

    Like `torch.embedding_renorm_`, but not in place; the factors have no gradient.
    """
    norm = rows.detach().norm(norm_type, -1, keepdim=True)
    factor = torch.where(norm > max_norm, max_norm / (norm + 1e-7), 1.0)
    return rows * factor.to(rows.dtype)
