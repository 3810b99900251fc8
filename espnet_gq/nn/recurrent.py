"""Quantized LSTM and GRU layers and cells.

Input, recurrent and projection matrix of each layer and direction have a quantizer
each. The gates of a matrix are stacked in its dimension 0 and share the codebook;
granularity "gate" gives each gate its own scale.
"""

import weakref
from typing import Any, Dict, TypeVar, cast

from torch import nn

from espnet_gq.nn.flat_weights import flattened
from espnet_gq.nn.layers import QuantizedLayer, matrices

GATES = {nn.LSTM: 4, nn.LSTMCell: 4, nn.GRU: 3, nn.GRUCell: 3}


_Layer = TypeVar("_Layer", bound=nn.Module)


def _all_or_none(layer: nn.Module, gates: Dict[str, int]) -> Dict[str, int]:
    """Return the matrices, none where one of them is re-parametrized (weight norm)."""
    found = matrices(layer, gates)
    return found if len(found) == len(gates) else {}


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
    """Base class of the quantized LSTM and GRU."""

    @staticmethod
    def gates(layer: nn.Module) -> Dict[str, int]:
        """Return the weight matrices of all layers and directions, and their gates."""
        stacked = next(n for cls, n in GATES.items() if isinstance(layer, cls))
        flat = cast(nn.RNNBase, layer)._flat_weights_names
        names = [n for n in flat if n.startswith("weight")]
        gates = {n: 1 if n.startswith("weight_hr") else stacked for n in names}
        return _all_or_none(layer, gates)

    def forward(self, input, hx=None):
        # PyTorch computes with the list _flat_weights; this call's own one holds the
        # quantized weights.
        weights = [self.weight_in_use(n) for n in self._flat_weights_names]
        if weights[0].is_cuda:
            weights = flattened(weights, cast(nn.RNNBase, self))
        call = _for_one_call(self, _flat_weights=weights)
        return super(QuantizedRNNBase, call).forward(input, hx)

    def __setstate__(self, state) -> None:
        super().__setstate__(state)
        self._init_flat_weights()

    def _init_flat_weights(self) -> None:
        names = self._flat_weights_names
        self._flat_weights = [self._parameters.get(name) for name in names]
        self._flat_weight_refs = [
            None if w is None else weakref.ref(w) for w in self._flat_weights
        ]

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


class QuantizedCell(QuantizedLayer):
    """Base class of the quantized cells."""

    @staticmethod
    def gates(layer: nn.Module) -> Dict[str, int]:
        """Return the two weight matrices, and their gates."""
        stacked = next(n for cls, n in GATES.items() if isinstance(layer, cls))
        return _all_or_none(layer, {"weight_ih": stacked, "weight_hh": stacked})

    def forward(self, input, hx=None):
        # An attribute of the instance hides the parameter of its name.
        names = ("weight_ih", "weight_hh")
        call = _for_one_call(self, **{n: self.weight_in_use(n) for n in names})
        return super(QuantizedCell, call).forward(input, hx)


class QuantizedLSTMCell(QuantizedCell, nn.LSTMCell):
    """LSTM cell, weight_ih (4 hidden, input) and weight_hh (4 hidden, hidden)."""

    float_class = nn.LSTMCell


class QuantizedGRUCell(QuantizedCell, nn.GRUCell):
    """GRU cell, weight_ih (3 hidden, input) and weight_hh (3 hidden, hidden)."""

    float_class = nn.GRUCell
