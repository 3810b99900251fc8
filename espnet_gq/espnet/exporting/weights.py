"""Weights of packed layers, put into the model file."""

from typing import Any, Optional, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from espnet_gq.device.writer import ModelFile
from espnet_gq.runtime.layout import from_planes, to_planes
from espnet_gq.runtime.weight import PackedWeight

GATES = {nn.LSTM: "lstm", nn.GRU: "gru"}


def array(tensor: Tensor) -> np.ndarray:
    """Return a tensor's values as float32."""
    return tensor.detach().to("cpu", torch.float32).numpy()


def add_matrix(
    file: ModelFile,
    name: str,
    weight: Any,
    bias: Optional[Tensor] = None,
    order: Optional[Tensor] = None,
    shape: Optional[Sequence[int]] = None,
) -> None:
    """Add a weight, packed or float, and its bias.

    Args:
        file: The model file.
        name: The weight's name in it.
        weight: A layer's weight (rows, ...).
        bias: (rows,), or None.
        order: Column of the weight, as a matrix, that each column of the file's has;
            None leaves them.
        shape: Shape of the reordered weight; None: that of the weight.
    """
    size = tuple(shape or weight.shape)
    rows = size[0]
    b = None if bias is None else array(bias)
    if not isinstance(weight, PackedWeight):
        values = array(weight).reshape(rows, -1)
        if order is not None:
            values = values[:, order.numpy()]
        file.matrix(name, values.reshape(size), b)
        return
    planes = weight.planes.cpu()
    if order is not None:
        index = from_planes(planes, weight.rows, weight.cols, weight.bits)
        planes = to_planes(index[:, order].contiguous(), weight.bits)
    file.packed(
        name, planes.numpy(), array(weight.codebook), array(weight.scale), size, b
    )


def add_linear(file: ModelFile, name: str, layer: Any) -> None:
    """Add the weight and the bias of a Linear layer."""
    add_matrix(file, name, layer.weight, layer.bias)


def add_conv2d(file: ModelFile, name: str, layer: Any) -> None:
    """Add a Conv2d layer; the file has its weight with the channels last."""
    outputs, channels, height, width = layer.weight.shape
    order = torch.arange(channels * height * width).view(channels, height, width)
    add_matrix(
        file,
        name,
        layer.weight,
        layer.bias,
        order.permute(1, 2, 0).flatten(),
        (outputs, height, width, channels),
    )


def add_recurrent(
    file: ModelFile,
    name: str,
    layer: Any,
    number: int = 0,
    reverse: bool = False,
    order: Optional[Tensor] = None,
) -> None:
    """Add one direction of one layer of an nn.LSTM or nn.GRU.

    Args:
        file: The model file.
        name: Its name in it: NAME.ih and NAME.hh.
        layer: The module.
        number: Number of the layer in it.
        reverse: The backward direction.
        order: Of the columns of the input matrix, see `add_matrix`.
    """
    end = f"_l{number}{'_reverse' if reverse else ''}"
    w_ih, w_hh = (getattr(layer, f"weight_{which}{end}") for which in ("ih", "hh"))
    b_ih: Optional[Tensor] = None
    b_hh: Optional[Tensor] = None
    if layer.bias:
        b_ih, b_hh = (getattr(layer, f"bias_{which}{end}") for which in ("ih", "hh"))
        if isinstance(layer, nn.LSTM):
            b_ih, b_hh = b_ih + b_hh, None
    add_matrix(file, f"{name}.ih", w_ih, b_ih, order)
    add_matrix(file, f"{name}.hh", w_hh, b_hh)


def cell_of(layer: Any) -> str:
    """Return the name of the cell of an nn.LSTM or nn.GRU."""
    return next(name for kind, name in GATES.items() if isinstance(layer, kind))
