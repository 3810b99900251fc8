"""Layers that Conformers are made of, put into the model file."""

from typing import Any, Optional, cast

import torch
from torch import Tensor, nn

from espnet_gq.device.writer import ModelFile
from espnet_gq.espnet.exporting.refusal import CannotExport, require
from espnet_gq.espnet.exporting.weights import (
    add_conv2d,
    add_linear,
    add_matrix,
    array,
)
from espnet_gq.runtime.weight import PackedWeight

ACTIVATIONS = {
    "Identity": "identity",
    "ReLU": "relu",
    "Tanh": "tanh",
    "Swish": "swish",
    "SiLU": "swish",
    "Hardtanh": "hardtanh",
    "SELU": "selu",
    "GELU": "gelu",
}
"""Class of a module -> name in the file."""


def activation_of(module: Any, what: str) -> str:
    """Return the name of an activation in the file.

    Args:
        module: The activation.
        what: What to call it in a message.

    Raises:
        CannotExport: If the engine does not have it.
    """
    name = type(module).__name__
    plain = name in ACTIVATIONS and getattr(module, "beta", 1.0) <= 1.0
    if isinstance(module, nn.Hardtanh):
        plain = (module.min_val, module.max_val) == (-1.0, 1.0)
    if not plain:
        raise CannotExport(
            f"{what} is {module}; allowed on a device: "
            + ", ".join(dict.fromkeys(ACTIVATIONS.values()))
        )
    return ACTIVATIONS[name]


def values_of(weight: Any) -> Tensor:
    """Return a weight, packed or not, unpacked."""
    return weight.dense() if isinstance(weight, PackedWeight) else weight


def add_norm(file: ModelFile, name: str, norm: Any) -> None:
    """Add a layer normalization.

    Raises:
        CannotExport: If it is one of another kind.
    """
    if not isinstance(norm, nn.LayerNorm):
        raise CannotExport(
            f"a normalization of the encoder is {type(norm).__name__}; allowed on a "
            "device: layer_norm"
        )
    file.floats(f"{name}.gain", array(values_of(norm.weight)))
    file.floats(f"{name}.bias", array(values_of(norm.bias)))
    file.floats(f"{name}.epsilon", array(torch.tensor([norm.eps])))


def add_attention(file: ModelFile, name: str, attention: Any) -> None:
    """Add multi-head attention, with or without relative positions."""
    for part in ("linear_q", "linear_k", "linear_v", "linear_out"):
        add_linear(file, f"{name}.{part}", getattr(attention, part))
    if hasattr(attention, "linear_pos"):
        add_linear(file, f"{name}.linear_pos", attention.linear_pos)
        file.floats(f"{name}.pos_bias_u", array(attention.pos_bias_u))
        file.floats(f"{name}.pos_bias_v", array(attention.pos_bias_v))


def add_conv1d(file: ModelFile, name: str, layer: Any) -> None:
    """Add a Conv1d layer of one group; the file has its weight with channels last."""
    outputs, channels, taps = layer.weight.shape
    order = torch.arange(channels * taps).view(channels, taps).t().flatten()
    shape = (outputs, taps, channels)
    add_matrix(file, name, layer.weight, layer.bias, order, shape)


def add_depthwise(
    file: ModelFile, name: str, conv: Any, norm: Optional[Any] = None
) -> None:
    """Add a depthwise Conv1d and the batch normalization after it, if any.

    The engine computes gain * sum + shift.

    Raises:
        CannotExport: If its number of taps is even.
    """
    require(
        conv.kernel_size[0] % 2 == 1,
        f"a convolution of the encoder has {conv.kernel_size[0]} taps; allowed on a "
        "device: an odd number",
    )
    add_matrix(file, name, conv.weight)
    bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias
    if norm is None:
        file.floats(f"{name}.bias", array(bias))
        return
    if not isinstance(norm, nn.BatchNorm1d):
        raise CannotExport(
            f"the normalization of a convolution is {type(norm).__name__}; allowed on "
            "a device: BatchNorm1d"
        )
    mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    gain = (variance.double() + norm.eps).rsqrt() * norm.weight.double()
    shift = norm.bias.double() + (bias.double() - mean.double()) * gain
    file.floats(f"{name}.gain", array(gain))
    file.floats(f"{name}.shift", array(shift))


def add_feed_forward(file: ModelFile, name: str, layer: Any) -> None:
    """Add a feed-forward module of linear layers or convolutions over time."""
    for part, inner in (("inner", layer.w_1), ("outer", layer.w_2)):
        add = add_conv1d if isinstance(inner, nn.Conv1d) else add_linear
        add(file, f"{name}.{part}", inner)


def feed_forward_options(layer: Any) -> dict:
    """Return the settings of a feed-forward module.

    Raises:
        CannotExport: If the engine does not have it.
    """
    function = getattr(layer, "activation", nn.ReLU())
    taps = [
        part.kernel_size[0] if isinstance(part, nn.Conv1d) else 1
        for part in (layer.w_1, layer.w_2)
    ]
    require(
        all(count % 2 for count in taps),
        f"encoder_conf: positionwise_conv_kernel_size is {max(taps)}; allowed on a "
        "device: an odd number",
    )
    return {
        "encoder__feed_forward__activation": activation_of(
            function, "the activation of the feed-forward modules"
        ),
        "encoder__feed_forward__taps": taps,
    }


def add_subsampling(file: ModelFile, convs: Any, out: Any) -> None:
    """Add convolutions with ReLU and the linear layer after them.

    Args:
        file: The model file.
        convs: nn.Sequential of Conv2d and ReLU in turns.
        out: The linear layer, whose input is (channels, features).
    """
    layers = [layer for layer in convs if isinstance(layer, nn.Conv2d)]
    require(
        all(
            isinstance(layer, nn.Conv2d if i % 2 == 0 else nn.ReLU)
            for i, layer in enumerate(convs)
        ),
        "the input layer has other parts than convolutions and ReLU",
    )
    file.set(
        encoder__conv__layers=len(layers),
        encoder__conv__kernels=[int(layer.kernel_size[0]) for layer in layers],
        encoder__conv__strides=[int(layer.stride[0]) for layer in layers],
    )
    for number, layer in enumerate(layers):
        add_conv2d(file, f"encoder.conv.{number}", layer)
    channels = layers[-1].out_channels
    columns = int(torch.tensor(out.weight.shape[1:]).prod())
    order = torch.arange(columns).view(channels, -1).t().flatten()
    add_matrix(file, "encoder.conv.out", out.weight, out.bias, order)


def add_frequencies(file: ModelFile, width: int) -> None:
    """Add the frequencies of sinusoidal positions, computed as ESPnet does."""
    i = torch.arange(0, width, 2, dtype=torch.float32)
    logarithm = float(torch.log(torch.tensor(10000.0, dtype=torch.float64)))
    frequencies = torch.exp(i * -(logarithm / width))
    file.floats("encoder.positions.frequencies", array(frequencies))
