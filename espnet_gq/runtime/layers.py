"""Layers whose weights stay packed. Each extends its float layer; biases stay float.

The weight is frozen; activations and biases have gradients. Recurrent layers are in
`recurrent.py`, embeddings in `embeddings.py`.
"""

import types
from typing import (
    Any,
    Callable,
    Iterator,
    List,
    Mapping,
    Optional,
    Self,
    Type,
    Union,
)

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from espnet_gq.quantizer import Quantizer
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
        new._modules = {
            name: child
            for name, child in layer._modules.items()
            if not isinstance(child, Quantizer)
        }
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


class PackedConv3d(PackedLayer, nn.Conv3d):
    """3-D convolution with a packed weight (out_channels, in_channels / groups, d, h,
    w), which is unpacked for each call."""

    float_class = nn.Conv3d

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return _convolve(self, input)


def _convolve(
    layer: Union[nn.Conv1d, nn.Conv2d, nn.Conv3d], input: torch.Tensor
) -> torch.Tensor:
    weight: Any = layer.weight
    if isinstance(weight, PackedWeight):
        weight = weight.dense()
    return layer._conv_forward(input, weight, layer.bias)


def _convolve_transposed(
    function: Callable[..., torch.Tensor],
    layer: Union[nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d],
    input: torch.Tensor,
    output_size: Optional[List[int]],
) -> torch.Tensor:
    weight: Any = layer.weight
    if isinstance(weight, PackedWeight):
        weight = weight.dense()
    stride, padding, dilation = layer.stride, layer.padding, layer.dilation
    kernel: Any = layer.kernel_size
    sizes: Any = (stride, padding, kernel, len(kernel), dilation)
    added = layer._output_padding(input, output_size, *sizes)
    return function(
        *(input, weight, layer.bias, stride, padding, added, layer.groups, dilation)
    )


class PackedConvTranspose1d(PackedLayer, nn.ConvTranspose1d):
    """Transposed 1-D convolution with a packed weight (in_channels, out_channels /
    groups, k), which is unpacked for each call."""

    float_class = nn.ConvTranspose1d

    def forward(self, input, output_size=None):
        return _convolve_transposed(F.conv_transpose1d, self, input, output_size)


class PackedConvTranspose2d(PackedLayer, nn.ConvTranspose2d):
    """Transposed 2-D convolution with a packed weight (in_channels, out_channels /
    groups, h, w), which is unpacked for each call."""

    float_class = nn.ConvTranspose2d

    def forward(self, input, output_size=None):
        return _convolve_transposed(F.conv_transpose2d, self, input, output_size)


class PackedConvTranspose3d(PackedLayer, nn.ConvTranspose3d):
    """Transposed 3-D convolution with a packed weight (in_channels, out_channels /
    groups, d, h, w), which is unpacked for each call."""

    float_class = nn.ConvTranspose3d

    def forward(self, input, output_size=None):
        return _convolve_transposed(F.conv_transpose3d, self, input, output_size)


class PackedBilinear(PackedLayer, nn.Bilinear):
    """Bilinear layer with a packed weight (out_features, in1_features, in2_features),
    which is unpacked for each call."""

    float_class = nn.Bilinear

    def forward(self, input1: torch.Tensor, input2: torch.Tensor) -> torch.Tensor:
        weight: Any = self.weight
        if isinstance(weight, PackedWeight):
            weight = weight.dense()
        return F.bilinear(input1, input2, weight, self.bias)


class PackedMultiheadAttention(PackedLayer, nn.MultiheadAttention):
    """Multi-head attention with packed input projections.

    in_proj_weight (3 embed_dim, embed_dim) is unpacked where query, key and value are
    not one tensor; otherwise, and for q_proj_weight, k_proj_weight and v_proj_weight,
    products are those of a packed linear layer.
    """

    float_class = nn.MultiheadAttention


class PackedParametrizationList(PackedLayer, ParametrizationList):
    """The parametrizations of a weight, which compute it from packed tensors; these
    are unpacked for each call."""

    float_class = ParametrizationList

    def __len__(self) -> int:
        return sum(not isinstance(m, PackedWeight) for m in self._modules.values())

    def __iter__(self) -> Iterator[nn.Module]:
        children = self._modules.values()
        return iter([m for m in children if not isinstance(m, PackedWeight)])

    def forward(self) -> torch.Tensor:
        first, *others = self
        names = [f"original{i}" for i in range(self.ntensors)]
        found = [getattr(self, n) for n in (["original"] if self.is_tensor else names)]
        value = first(*(w.dense() if isinstance(w, PackedWeight) else w for w in found))
        for parametrization in others:
            value = parametrization(value)
        return value


class PackedOther(PackedLayer):
    """Any other module with a packed `weight`, which is unpacked where its code
    computes with it."""

    float_class = nn.Module


# --- PyTorch's functions --------------------------------------------------------------


@handles(F.linear)
def _linear(input, weight, bias=None):
    if not isinstance(weight, PackedWeight) or weight.dim() != 2:
        return NotImplemented
    if isinstance(input, PackedWeight) or isinstance(bias, PackedWeight):
        return NotImplemented
    return weight.linear(input, bias)


# Without its first lines, which would call the handler again; its products then reach
# the handlers of F.linear.
_attend = types.FunctionType(
    F.multi_head_attention_forward.__code__,
    {**vars(F), "has_torch_function": lambda tensors: False},
    argdefs=F.multi_head_attention_forward.__defaults__,
)


@handles(F.multi_head_attention_forward)
def _attention(*args, **kwargs):
    return _attend(*args, **kwargs)
