"""Layers whose weights stay packed. Each extends its float layer; biases stay float.

They are for inference: activations get no gradient where the kernels run. Recurrent
layers are in `recurrent.py`.
"""

from typing import Mapping, Type

import torch
from torch import nn

from espnet_gq.runtime.weight import PackedWeight


class PackedLayer:
    """What the packed layers share; `float_class` is the layer extended."""

    float_class: Type[nn.Module]

    @classmethod
    def from_float(
        cls, layer: nn.Module, weights: Mapping[str, PackedWeight]
    ) -> nn.Module:
        """Return a packed layer in place of a float (or quantized) one.

        Args:
            layer: Instance of `float_class`; its other parameters are shared.
            weights: The packed weights by parameter name.

        Raises:
            ValueError: If a weight has another shape than its parameter.
        """
        new = cls.__new__(cls)
        new.__dict__.update(layer.__dict__)
        for name in ("_parameters", "_buffers"):
            new.__dict__[name] = layer.__dict__[name].copy()
        new._modules = {}
        for name, weight in weights.items():
            if weight.shape != layer._parameters[name].shape:
                raise ValueError(
                    f"{name} has shape {tuple(weight.shape)}; allowed: "
                    f"{tuple(layer._parameters[name].shape)}"
                )
            del new._parameters[name]
            new.add_module(name, weight)
        new.eval()
        return new


class PackedLinear(PackedLayer, nn.Linear):
    """Linear layer with a packed weight (out_features, in_features)."""

    float_class = nn.Linear

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        # Not `self.weight`: an attribute of a module takes as long as a small product.
        return self._modules["weight"].linear(input, self._parameters["bias"])


class PackedConv1d(PackedLayer, nn.Conv1d):
    """1-D convolution with a packed weight (out_channels, in_channels / groups, k).

    A pointwise one is a linear layer over the channels. Others unpack their weight for
    the call: it is small, and the convolution is bound by computation.
    """

    float_class = nn.Conv1d

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        pointwise = (
            self.kernel_size == (1,)
            and self.stride == (1,)
            and self.padding in ((0,), "valid", "same")
            and self.groups == 1
        )
        if pointwise:
            return self.weight.linear(input.transpose(-2, -1), self.bias).transpose(
                -2, -1
            )
        return self._conv_forward(input, self.weight.dense().to(input.dtype), self.bias)


class PackedConv2d(PackedLayer, nn.Conv2d):
    """2-D convolution with a packed weight (out_channels, in_channels / groups, h, w).

    The weight is unpacked for the call: the convolution is bound by computation.
    """

    float_class = nn.Conv2d

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(input, self.weight.dense().to(input.dtype), self.bias)


class PackedEmbedding(PackedLayer, nn.Embedding):
    """Embedding with a packed weight (num_embeddings, embedding_dim); always exact."""

    float_class = nn.Embedding

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.weight.embed(input)
