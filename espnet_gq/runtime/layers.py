"""Layers whose weights stay packed. Each extends its float layer; biases stay float.

The weight is frozen; activations and biases have gradients. Recurrent layers are in
`recurrent.py`.
"""

from typing import Any, Mapping, Optional, Self, Type, Union

import torch
import torch.nn.functional as F
from torch import nn

from espnet_gq.runtime import context
from espnet_gq.runtime.tensor_like import handles
from espnet_gq.runtime.weight import PackedWeight


class PackedLayer(nn.Module):
    """Base class of packed layers; `float_class` is the layer that a class extends."""

    float_class: Type[nn.Module]

    @classmethod
    def from_float(cls, layer: nn.Module, weights: Mapping[str, PackedWeight]) -> Self:
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
            parameter = layer._parameters[name]
            if parameter is None:
                raise ValueError(f"{name} is None; allowed: a parameter")
            if weight.shape != parameter.shape:
                raise ValueError(
                    f"{name} has shape {tuple(weight.shape)}; allowed: "
                    f"{tuple(parameter.shape)}"
                )
            del new._parameters[name]
            new.add_module(name, weight)
        new.eval()
        return new


class PackedLinear(PackedLayer, nn.Linear):
    """Linear layer with a packed weight (out_features, in_features)."""

    float_class = nn.Linear

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        # `self.weight` would take as long as a small product.
        weight: Any = self._modules.get("weight")
        if weight is None:  # replaced by a float weight
            return super().forward(input)
        return weight.linear(input, self._parameters["bias"])


class PackedConv1d(PackedLayer, nn.Conv1d):
    """1-D convolution with a packed weight (out_channels, in_channels / groups, k).

    With kernel size 1 it is a linear layer over the channels. Otherwise the weight is
    unpacked for each call: it is small, and the convolution is bound by computation.
    """

    float_class = nn.Conv1d

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        weight: Any = self.weight
        pointwise = (
            self.kernel_size == (1,)
            and self.stride == (1,)
            and self.padding in ((0,), "valid", "same")
            and self.groups == 1
            and isinstance(weight, PackedWeight)
            and input.dim() in (2, 3)
            and input.dtype is weight.dtype
        )
        if not pointwise or not (context.is_recorded(input) or input.numel()):
            return _convolve(self, input)  # and PyTorch's errors
        out = weight.linear(input.transpose(-2, -1), self.bias)
        return out.transpose(-2, -1).contiguous()


class PackedConv2d(PackedLayer, nn.Conv2d):
    """2-D convolution with a packed weight (out_channels, in_channels / groups, h, w).

    The weight is unpacked for each call: the convolution is bound by computation.
    """

    float_class = nn.Conv2d

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return _convolve(self, input)


def _convolve(layer: Union[nn.Conv1d, nn.Conv2d], input: torch.Tensor) -> torch.Tensor:
    weight: Any = layer.weight
    if isinstance(weight, PackedWeight):
        weight = weight.dense()
    return layer._conv_forward(input, weight, layer.bias)


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


# --- PyTorch's functions --------------------------------------------------------------


@handles(F.linear)
def _linear(input, weight, bias=None):
    if not isinstance(weight, PackedWeight) or weight.dim() != 2:
        return NotImplemented
    if isinstance(input, PackedWeight) or isinstance(bias, PackedWeight):
        return NotImplemented
    return weight.linear(input, bias)


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
