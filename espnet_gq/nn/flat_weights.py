"""The weights of a recurrent layer in the one buffer that cuDNN expects.

cuDNN takes all weights of a recurrent layer as one buffer. PyTorch passes a layer's
weights on without a copy only where they already are that buffer; otherwise it copies
them at every call and warns that they "are not part of single contiguous chunk of
memory".
"""

import functools
from typing import List, NamedTuple, Sequence, Tuple

import torch
from torch import nn

GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}


class Layout(NamedTuple):
    """Where each of a layer's weights begins, and the size of all, in elements."""

    offsets: Tuple[int, ...]
    total: int


def flattened(weights: List[torch.Tensor], layer: nn.RNNBase) -> List[torch.Tensor]:
    """Return the same weights as views of one new buffer; gradients pass through.

    PyTorch (`try_get_weight_buf` in ATen/native/cudnn/RNN.cpp) accepts a buffer where

    - the storage of the first weight begins with the buffer and holds at least as many
      elements as cuDNN asks for, which counts biases even where the layer has none;
    - each weight begins at the address that cuDNN names for it, in the order of
      `_flat_weights`: of each layer and direction weight_ih, weight_hh, bias_ih,
      bias_hh, weight_hr (without those that the layer lacks);
    - the last weight is contiguous.

    On a CUDA device the addresses are cuDNN's own, queried once per kind of layer.
    Elsewhere they are those of `layout`.

    Memory: the buffer; the given weights are not kept for the backward pass.

    Args:
        weights: What the layer computes with, in the order of `layer._flat_weights`.
        layer: The LSTM, GRU or RNN; its sizes are read, its weights are not.

    Returns:
        Contiguous tensors of the shapes, type and device of `weights`. The given list
        where cuDNN does not support the weights.

    Raises:
        ValueError: If number, type or device of the weights differ from the layer's.
    """
    names = layer._flat_weights_names
    if len(weights) != len(names):
        raise ValueError(
            f"{len(weights)} weights for a layer that has {len(names)}; allowed: one "
            f"each for {', '.join(names)}"
        )
    kinds = {(w.dtype, w.device) for w in weights}
    if len(kinds) > 1:
        found = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
        raise ValueError(
            f"the weights of a recurrent layer are {found}; allowed: one type on one "
            "device"
        )
    first = weights[0]
    shapes = tuple(tuple(w.shape) for w in weights)
    if first.is_cuda:
        if not torch.backends.cudnn.is_acceptable(first):
            return weights
        where = _cudnn_layout(shapes, *_sizes(layer), first.dtype, first.device)
    else:
        where = layout(shapes, layer)
    return list(_Flattened.apply(where, *weights))


def layout(shapes: Sequence[Tuple[int, ...]], layer: nn.RNNBase) -> Layout:
    """Return cuDNN's layout: all matrices, then all biases.

    Matrices lie layer by layer, direction by direction, each weight_ih, weight_hh and
    weight_hr; biases likewise, bias_ih and bias_hh. Gates are stacked as in the
    weights. A layer without biases has zeros in their place.

    Args:
        shapes: Those of the weights, in the order of `layer._flat_weights`.
        layer: The LSTM, GRU or RNN.
    """
    offsets = [0] * len(shapes)
    end = 0
    names = layer._flat_weights_names
    matrices = [i for i, name in enumerate(names) if name.startswith("weight")]
    biases = [i for i, name in enumerate(names) if name.startswith("bias")]
    for index in matrices + biases:
        offsets[index] = end
        end += functools.reduce(int.__mul__, shapes[index], 1)
    if not biases:
        directions = layer.num_layers * (1 + layer.bidirectional)
        end += 2 * directions * GATES[layer.mode] * layer.hidden_size
    return Layout(tuple(offsets), end)


def _sizes(layer: nn.RNNBase) -> Tuple[str, int, int, int, int, bool, bool]:
    """Return what decides a layer's layout besides the shapes."""
    return (
        *(layer.mode, layer.input_size, layer.hidden_size, layer.proj_size),
        *(layer.num_layers, layer.bias, layer.bidirectional),
    )


@functools.lru_cache(maxsize=None)
def _cudnn_layout(
    shapes: Tuple[Tuple[int, ...], ...],
    mode: str,
    input_size: int,
    hidden_size: int,
    proj_size: int,
    num_layers: int,
    bias: bool,
    bidirectional: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> Layout:
    """Return where cuDNN puts the weights of such a layer, by letting PyTorch flatten
    empty ones."""
    from torch.backends.cudnn.rnn import get_cudnn_mode

    with torch.no_grad(), torch.cuda.device(device):
        empty = [torch.empty(shape, dtype=dtype, device=device) for shape in shapes]
        buffer = torch._cudnn_rnn_flatten_weight(
            *(empty, len(shapes) // (num_layers * (1 + bidirectional)), input_size),
            *(get_cudnn_mode(mode), hidden_size, proj_size, num_layers),
            *(False, bidirectional),
        )
        return Layout(tuple(int(w.storage_offset()) for w in empty), buffer.numel())


class _Flattened(torch.autograd.Function):
    """Copies tensors into one buffer; their gradients are those of the copies."""

    @staticmethod
    def forward(ctx, where: Layout, *weights: torch.Tensor):
        full = sum(w.numel() for w in weights) == where.total
        make = weights[0].new_empty if full else weights[0].new_zeros
        storage = make(where.total).untyped_storage()
        # Tensors on the storage, not views of a tensor: autograd has rules for views
        # that do not apply to weights.
        views = [
            weight.new_empty(0).set_(
                storage, offset, weight.shape  # type: ignore[call-overload]
            )
            for weight, offset in zip(weights, where.offsets)
        ]
        torch._foreach_copy_(views, [w.detach() for w in weights])
        return tuple(views)

    @staticmethod
    def backward(ctx, *grads):
        return (None, *grads)
