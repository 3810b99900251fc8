"""Float layers with a quantizer on their weight, under the same parameter names.

Each class extends its float layer and holds the same parameters, so a float checkpoint
loads into it; the quantizer adds `weight_quantizer.*`. Biases stay float.
"""

from typing import Dict, Type

import torch
import torch.nn.functional as F
from torch import nn

from espnet_gq.quantizer import GeneralQuantizer


class QuantizedLayer:
    """What the quantized layers share; `float_class` is the layer extended."""

    float_class: Type[nn.Module]

    @classmethod
    def from_float(cls, layer: nn.Module, **quantizer_options) -> "QuantizedLayer":
        """Return a quantized layer around the parameters of a float one (shared).

        Args:
            layer: Layer of exactly `float_class`.
            quantizer_options: Arguments of GeneralQuantizer but `channels`.
        """
        return _reclass(
            layer,
            cls,
            weight_quantizer=GeneralQuantizer(
                channels=layer.weight.shape[0], **quantizer_options
            ).to(layer.weight.device),
        )

    def to_float(self) -> nn.Module:
        """Return the float layer with every weight on its centroid (own copy)."""
        layer = _reclass(self, self.float_class)
        del layer._modules["weight_quantizer"]
        weight = self.weight_quantizer.quantize(self.weight.detach())
        layer._parameters = dict(layer._parameters)
        layer.weight = nn.Parameter(weight, requires_grad=self.weight.requires_grad)
        return layer

    def quantized_weight(self) -> torch.Tensor:
        """Return the weight that the forward pass uses."""
        return self.weight_quantizer(self.weight)


def _reclass(layer: nn.Module, cls: type, **modules: nn.Module) -> nn.Module:
    """Return a module of another class with the same contents (parameters shared)."""
    new = cls.__new__(cls)
    new.__dict__.update(layer.__dict__)
    for name in ("_parameters", "_buffers", "_modules"):
        new.__dict__[name] = layer.__dict__[name].copy()
    for name, module in modules.items():
        module.train(layer.training)
        new.add_module(name, module)
    return new


class QuantizedLinear(QuantizedLayer, nn.Linear):
    """Linear layer, weight (out_features, in_features) quantized."""

    float_class = nn.Linear

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return F.linear(input, self.quantized_weight(), self.bias)


class QuantizedConv1d(QuantizedLayer, nn.Conv1d):
    """1-D convolution, weight (out_channels, in_channels / groups, k) quantized."""

    float_class = nn.Conv1d

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(input, self.quantized_weight(), self.bias)


class QuantizedConv2d(QuantizedLayer, nn.Conv2d):
    """2-D convolution, weight (out_channels, in_channels / groups, h, w) quantized."""

    float_class = nn.Conv2d

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(input, self.quantized_weight(), self.bias)


class QuantizedEmbedding(QuantizedLayer, nn.Embedding):
    """Embedding, weight (num_embeddings, embedding_dim) quantized.

    The row of `padding_idx` is quantized like any other: no codebook has a zero, so
    padding is embedded as the smallest centroids.
    """

    float_class = nn.Embedding

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return F.embedding(
            input,
            self.quantized_weight(),
            self.padding_idx,
            self.max_norm,
            self.norm_type,
            self.scale_grad_by_freq,
            self.sparse,
        )


QUANTIZED: Dict[Type[nn.Module], Type[QuantizedLayer]] = {
    cls.float_class: cls
    for cls in (QuantizedLinear, QuantizedConv1d, QuantizedConv2d, QuantizedEmbedding)
}
"""Quantized class of each float class. Only layers of exactly these classes are
replaced: a subclass may compute something else."""
