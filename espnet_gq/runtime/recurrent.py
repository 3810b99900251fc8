"""LSTM, GRU and RNN layers and cells whose matrices stay packed.

The layers are PyTorch's own, with its checks; handlers of torch.lstm, torch.gru,
torch.rnn_tanh, torch.rnn_relu and of the functions of their cells compute with packed
matrices (see `tensor_like`). The input matrix of a layer is applied to all steps at
once; the steps of an LSTM or GRU then run inside the native library, where it can all
layers in one call (`stack`). Matrices that a configuration leaves float use PyTorch
operations.
"""

from typing import Any, List, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import nn

from espnet_gq.runtime import context, stack
from espnet_gq.runtime.layers import PackedLayer
from espnet_gq.runtime.steps import ACTIVATIONS, States, Steps, gru, linear, lstm
from espnet_gq.runtime.tensor_like import handles
from espnet_gq.runtime.weight import NARROW


class _Types:
    """The type that a layer computes in, and the type that it returns.

    float16 and bfloat16 are computed in float32, as by the kernels. Under autocast,
    results have the states' type, and autocast's type with a projection or in a `fused`
    layer (an LSTM without one) or RNN.

    Raises:
        RuntimeError: If operands have several types or devices, in PyTorch's words.
    """

    def __init__(
        self, x, states, weights, fused: bool = False, projected: bool = False
    ):
        self.returned = self.cell = self.computed = x.dtype
        wanted = context.autocast_type(x)
        if wanted is not None:
            self.returned = wanted if fused or projected else states[0].dtype
            self.cell = wanted if fused else states[-1].dtype
            self.computed = torch.float32
        elif x.dtype in NARROW:
            self.computed = torch.float32
        self.as_given = self.returned is self.cell is self.computed is x.dtype
        for name, tensors in (("hidden", states), ("parameter", weights)):
            for tensor in tensors:
                if tensor.device != x.device:
                    raise RuntimeError(
                        f"Input and {name} tensors are not at the same device, found "
                        f"input tensor at {x.device} and {name} tensor at "
                        f"{tensor.device}"
                    )
                fits = tensor.dtype is x.dtype or (
                    wanted is not None and tensor.is_floating_point()
                )
                if not fits:
                    raise RuntimeError(
                        f"Input and {name} tensors are not the same dtype, found input "
                        f"tensor with {x.dtype} and {name} tensor with {tensor.dtype}"
                    )

    def within(self, *tensors: Optional[torch.Tensor]) -> List[Any]:
        """Return operands in the type of the computation; None stays None."""
        if self.as_given:
            return list(tensors)
        return [None if t is None else t.to(self.computed) for t in tensors]

    def without(
        self, hidden: Sequence[torch.Tensor], cell: Sequence[torch.Tensor] = ()
    ) -> Tuple[torch.Tensor, ...]:
        """Return outputs, hidden states, then cell states, in the types to return."""
        if self.as_given:
            return (*hidden, *cell)
        hidden = [t.to(self.returned) for t in hidden]
        return (*hidden, *(t.to(self.cell) for t in cell))


def _check_size(name: str, state: torch.Tensor, expected: Sequence[int]) -> None:
    if tuple(state.shape) != tuple(expected):
        raise RuntimeError(
            f"Expected {name} size {tuple(expected)}, got {list(state.shape)}"
        )


@handles(torch.lstm)
def _lstm_layer(*arguments):
    return _layer("LSTM", *arguments)


@handles(torch.gru)
def _gru_layer(*arguments):
    return _layer("GRU", *arguments)


@handles(torch.rnn_tanh)
def _tanh_layer(*arguments):
    return _layer("RNN_TANH", *arguments)


@handles(torch.rnn_relu)
def _relu_layer(*arguments):
    return _layer("RNN_RELU", *arguments)


def _layer(cell: str, x, second, third, *options):
    """Compute torch.lstm, torch.gru or torch.rnn_*, in either of their forms."""
    if isinstance(options[0], bool):  # x, hx, weights, has_biases, ...
        sizes, hx, weights = None, second, third
        has_biases, layers, dropout, train, bidirectional, batch_first = options
    else:  # data, batch_sizes, hx, weights, has_biases, ...
        sizes, hx, batch_first = second, third, False
        weights, has_biases, layers, dropout, train, bidirectional = options
    hx = list(hx) if cell == "LSTM" else [hx]
    if len(hx) != (2 if cell == "LSTM" else 1):
        raise RuntimeError("lstm expects two hidden states")
    directions = 2 if bidirectional else 1
    each = len(weights) // (layers * directions)
    projected = each in (3, 5)
    fused = cell in ACTIVATIONS or (cell == "LSTM" and sizes is None and not projected)
    types = _Types(x, hx, weights, fused, projected)
    weights = [weights[i : i + each] for i in range(0, len(weights), each)]
    if not context.is_recorded(x):
        _check_layer(x, sizes, hx, weights, batch_first, has_biases)
    with context.without_autocast(x.device):
        x, *hx = types.within(x, *hx)
        x = x.transpose(0, 1) if batch_first else x
        done = None
        if types.as_given and not (dropout and train and layers > 1):
            done = stack.run(cell, x, hx, weights, has_biases, sizes, directions)
        if done is not None:
            done[0] = done[0].transpose(0, 1) if batch_first else done[0]
            return tuple(done)
        final: List[Sequence[Optional[torch.Tensor]]] = []
        for layer in range(layers):
            found = []
            for direction in range(directions):
                at = layer * directions + direction
                states = [state[at] for state in hx]
                out, *rest = _direction(
                    cell, x, states, weights[at], has_biases, sizes, direction == 1
                )
                found.append(out)
                final.append(rest)
            x = torch.cat(found, -1) if bidirectional else found[0]
            if dropout and train and layer < layers - 1:
                x = F.dropout(x, dropout, True)
        x = x.transpose(0, 1) if batch_first else x
        if len(final) == 1:
            stacked = [state.unsqueeze(0) for state in final[0] if state is not None]
        else:
            stacked = [torch.stack(one) for one in zip(*final) if one[0] is not None]
        return types.without((x, stacked[0]), stacked[1:])


def _check_layer(x, sizes, hx, weights, batch_first: bool, has_biases: bool) -> None:
    """Check sizes as PyTorch's functions do.

    Raises:
        RuntimeError: If a size is wrong.
    """
    dims = 3 if sizes is None else 2
    if x.dim() != dims:
        raise RuntimeError(f"input must have {dims} dimensions, got {x.dim()}")
    w_ih, w_hh = weights[0][:2]
    if x.shape[-1] != w_ih.shape[1]:
        raise RuntimeError(
            "input.size(-1) must be equal to input_size. Expected "
            f"{w_ih.shape[1]}, got {x.shape[-1]}"
        )
    if sizes is None:
        steps, batch = (x.shape[1], x.shape[0]) if batch_first else x.shape[:2]
    else:
        steps, batch = len(sizes), int(sizes[0]) if len(sizes) else 0
    if steps == 0:
        raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
    projected = len(weights[0]) == (5 if has_biases else 3)
    units = weights[0][-1].shape[1] if projected else w_hh.shape[1]
    for i, (state, size) in enumerate(zip(hx, (w_hh.shape[1], units))):
        name = f"hidden[{i}]" if len(hx) > 1 else "hidden"
        _check_size(name, state, (len(weights), batch, size))


def _direction(cell, x, states, weights, has_biases, sizes, reverse) -> States:
    """Run one direction of one layer."""
    w_ih, w_hh, *rest = weights
    w_hr = rest[-1] if len(rest) in (1, 3) else None
    b_ih: Any = None
    b_hh: Any = None
    if has_biases:
        b_ih, b_hh = rest[:2]
        if b_ih.dtype is not x.dtype:
            b_ih, b_hh = b_ih.to(x.dtype), b_hh.to(x.dtype)
        if cell != "GRU":
            b_ih, b_hh = b_ih + b_hh, None
    h, c = states if cell == "LSTM" else (states[0], None)
    steps = Steps(cell, w_hh, w_hr, sizes, reverse)
    return steps(linear(x, w_ih, b_ih), h, c, b_hh)


def _cell(x, states, w_ih, w_hh, b_ih, b_hh, fused: bool = False):
    """Return the gates of the input and of the hidden state, and the states."""
    weights = [w for w in (w_ih, w_hh, b_ih, b_hh) if w is not None]
    types = _Types(x, states, weights, fused)
    if not context.is_recorded(x):
        if x.shape[1] != w_ih.shape[1]:
            raise RuntimeError(
                f"input has inconsistent input_size: got {x.shape[1]} expected "
                f"{w_ih.shape[1]}"
            )
        for i, state in enumerate(states):
            if state.shape[0] != x.shape[0]:
                raise RuntimeError(
                    f"Input batch size {x.shape[0]} doesn't match hidden{i} batch size "
                    f"{state.shape[0]}"
                )
            if state.shape[1] != w_hh.shape[1]:
                raise RuntimeError(
                    f"hidden{i} has inconsistent hidden_size: got {state.shape[1]}, "
                    f"expected {w_hh.shape[1]}"
                )
    with context.without_autocast(x.device):
        x, b_ih, b_hh, *states = types.within(x, b_ih, b_hh, *states)
        hidden = linear(states[0], w_hh, b_hh)
        return linear(x, w_ih, b_ih), hidden, states, types


@handles(torch.lstm_cell)
def _lstm_cell(x, hx, w_ih, w_hh, b_ih=None, b_hh=None):
    if not isinstance(hx, (list, tuple)):
        raise TypeError(
            "lstm_cell(): argument 'hx' (position 2) must be tuple of Tensors, not "
            f"{type(hx).__name__}"
        )
    if len(hx) != 2:
        raise RuntimeError("lstm_cell expects two hidden states")
    gates, hidden, states, types = _cell(x, hx, w_ih, w_hh, b_ih, b_hh)
    h, c = lstm(gates + hidden, states[1])
    return types.without((h,), (c,))


@handles(torch.gru_cell)
def _gru_cell(x, hx, w_ih, w_hh, b_ih=None, b_hh=None):
    gates, hidden, states, types = _cell(x, [hx], w_ih, w_hh, b_ih, b_hh)
    return types.without((gru(gates, hidden, states[0]),))[0]


@handles(torch.rnn_tanh_cell)
def _tanh_cell(x, hx, w_ih, w_hh, b_ih=None, b_hh=None):
    gates, hidden, _, types = _cell(x, [hx], w_ih, w_hh, b_ih, b_hh, True)
    return types.without((torch.tanh(gates + hidden),))[0]


@handles(torch.rnn_relu_cell)
def _relu_cell(x, hx, w_ih, w_hh, b_ih=None, b_hh=None):
    gates, hidden, _, types = _cell(x, [hx], w_ih, w_hh, b_ih, b_hh, True)
    return types.without((torch.relu(gates + hidden),))[0]


# --- layers ---------------------------------------------------------------------------


class PackedRNNBase(PackedLayer):
    """Base class of the packed LSTM, GRU and RNN, which have no flat weights."""

    __jit_unused_properties__ = ["all_weights", "_flat_weights"]

    _flat_weights_names: List[str]
    _flat_weight_refs: List[Any]

    @property
    def _flat_weights(self) -> List[Any]:
        packed, own = self._modules, self._parameters
        return [
            packed[n] if n in packed else own[n] if n in own else getattr(self, n, None)
            for n in self._flat_weights_names  # a hook may compute the last kind
        ]

    @_flat_weights.setter
    def _flat_weights(self, value) -> None:
        """Do nothing: the getter looks the weights up."""

    def flatten_parameters(self) -> None:
        """Do nothing: there are no flat weights."""

    def _update_flat_weights(self) -> None:
        """Do nothing: there are no flat weights."""

    def _init_flat_weights(self) -> None:
        self._flat_weight_refs = []

    @classmethod
    def from_float(cls, layer, weights):
        new = super().from_float(layer, weights)
        new.__dict__.pop("_flat_weights", None)
        new._flat_weight_refs = []
        return new


class PackedLSTM(PackedRNNBase, nn.LSTM):
    """LSTM: bidirectional, projected and multi-layer as nn.LSTM."""

    float_class = nn.LSTM


class PackedGRU(PackedRNNBase, nn.GRU):
    """GRU: bidirectional and multi-layer as nn.GRU."""

    float_class = nn.GRU


class PackedRNN(PackedRNNBase, nn.RNN):
    """RNN (tanh or relu): bidirectional and multi-layer as nn.RNN."""

    float_class = nn.RNN


class PackedLSTMCell(PackedLayer, nn.LSTMCell):
    """LSTM cell, weight_ih (4 hidden, input) and weight_hh (4 hidden, hidden)."""

    float_class = nn.LSTMCell


class PackedGRUCell(PackedLayer, nn.GRUCell):
    """GRU cell, weight_ih (3 hidden, input) and weight_hh (3 hidden, hidden)."""

    float_class = nn.GRUCell


class PackedRNNCell(PackedLayer, nn.RNNCell):
    """RNN cell, weight_ih (hidden, input) and weight_hh (hidden, hidden)."""

    float_class = nn.RNNCell
