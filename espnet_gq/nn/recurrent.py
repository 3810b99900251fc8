"""Quantized LSTM, GRU and RNN layers and cells.

Input, recurrent and projection matrix of each layer and direction have a quantizer
each. The gates of a matrix are stacked in its dimension 0 and share the codebook;
granularity "gate" gives each gate its own scale.
"""

from typing import Any, Dict, List, TypeVar, cast

import torch
from torch import nn

from espnet_gq.nn.flat_weights import flattened
from espnet_gq.nn.layers import SUFFIX, QuantizedLayer

GATES = {
    **{nn.LSTM: 4, nn.LSTMCell: 4, nn.GRU: 3, nn.GRUCell: 3},
    **{nn.RNN: 1, nn.RNNCell: 1},
}


_Layer = TypeVar("_Layer", bound=nn.Module)


def _for_one_call(layer: _Layer, **attributes: Any) -> _Layer:
    """Return a second instance of a layer with some attributes of its own.

    Everything else is shared. Threads that call the layer at the same time do not see
    each other's attributes.
    """
    call = object.__new__(type(layer))
    call.__dict__.update(layer.__dict__)
    call.__dict__.update(attributes)
    return call


class QuantizedRNNBase(QuantizedLayer):
    """Base class of the quantized LSTM, GRU and RNN."""

    _flat_weights_names: List[str]
    _flat_weight_refs: List[Any]

    @staticmethod
    def gates(layer: nn.Module) -> Dict[str, int]:
        """Return the weight matrices of all layers and directions, and their gates."""
        stacked = next(n for cls, n in GATES.items() if isinstance(layer, cls))
        flat = cast(nn.RNNBase, layer)._flat_weights_names
        names = [n for n in flat if n.startswith("weight")]
        return {n: 1 if n.startswith("weight_hr") else stacked for n in names}

    @classmethod
    def from_float(cls, layer, quantizers):
        layer = super().from_float(layer, quantizers)
        layer._init_flat_weights()
        return layer

    @property
    def _flat_weights(self) -> List[Any]:
        """The weights that PyTorch computes with: quantized, those of a call if this
        is its instance."""
        found = self.__dict__.get("_weights_of_call")
        return self._weights_in_use() if found is None else found

    @_flat_weights.setter
    def _flat_weights(self, value) -> None:
        """Do nothing: the getter makes them."""

    def _weights_in_use(self) -> List[torch.Tensor]:
        weights = [self.weight_in_use(n) for n in self._flat_weights_names]
        if weights[0].is_cuda:
            weights = flattened(weights, cast(nn.RNNBase, self))
        return weights

    def forward(self, input, hx=None):
        call = _for_one_call(self, _weights_of_call=self._weights_in_use())
        return super(QuantizedRNNBase, call).forward(input, hx)

    def __setattr__(self, name: str, value: Any) -> None:
        nn.Module.__setattr__(self, name, value)  # RNNBase's changes _flat_weights

    def __setstate__(self, state) -> None:
        nn.Module.__setstate__(self, state)
        self._init_flat_weights()

    def _replicate_for_data_parallel(self):
        return nn.Module._replicate_for_data_parallel(self)

    def _init_flat_weights(self) -> None:
        self.__dict__.pop("_flat_weights", None)
        self._flat_weight_refs = []

    def _update_flat_weights(self) -> None:
        """Do nothing: each forward pass makes its own _flat_weights."""

    def flatten_parameters(self) -> None:
        """Do nothing: cuDNN gets the quantized weights, which change at every step."""

    def to_float(self) -> nn.Module:
        """Turn the layer into the float one, see `QuantizedLayer`."""
        layer = super().to_float()
        cast(nn.RNNBase, layer)._init_flat_weights()
        return layer


class QuantizedLSTM(QuantizedRNNBase, nn.LSTM):
    """LSTM: bidirectional, projected and multi-layer as nn.LSTM.

    Quantized: weight_ih_l* (4 hidden, input), weight_hh_l* (4 hidden, hidden or
    projection), weight_hr_l* (projection, hidden).
    """

    float_class = nn.LSTM


class QuantizedGRU(QuantizedRNNBase, nn.GRU):
    """GRU: bidirectional and multi-layer as nn.GRU.

    Quantized: weight_ih_l* (3 hidden, input), weight_hh_l* (3 hidden, hidden).
    """

    float_class = nn.GRU


class QuantizedRNN(QuantizedRNNBase, nn.RNN):
    """RNN (tanh or relu): bidirectional and multi-layer as nn.RNN.

    Quantized: weight_ih_l* (hidden, input), weight_hh_l* (hidden, hidden).
    """

    float_class = nn.RNN


class QuantizedCell(QuantizedLayer):
    """Base class of the quantized cells."""

    @staticmethod
    def gates(layer: nn.Module) -> Dict[str, int]:
        """Return the two weight matrices, and their gates."""
        stacked = next(n for cls, n in GATES.items() if isinstance(layer, cls))
        return {"weight_ih": stacked, "weight_hh": stacked}

    def forward(self, input, hx=None):
        # An attribute of the instance hides the parameter of its name.
        names = [n for n in ("weight_ih", "weight_hh") if n + SUFFIX in self._modules]
        call = _for_one_call(self, **{n: self.weight_in_use(n) for n in names})
        return super(QuantizedCell, call).forward(input, hx)


class QuantizedLSTMCell(QuantizedCell, nn.LSTMCell):
    """LSTM cell, weight_ih (4 hidden, input) and weight_hh (4 hidden, hidden)."""

    float_class = nn.LSTMCell


class QuantizedGRUCell(QuantizedCell, nn.GRUCell):
    """GRU cell, weight_ih (3 hidden, input) and weight_hh (3 hidden, hidden)."""

    float_class = nn.GRUCell


class QuantizedRNNCell(QuantizedCell, nn.RNNCell):
    """RNN cell, weight_ih (hidden, input) and weight_hh (hidden, hidden)."""

    float_class = nn.RNNCell
