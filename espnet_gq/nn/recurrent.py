"""Quantized LSTM and GRU layers and cells.

Input, recurrent and projection matrix of each layer and direction have a quantizer
each. The gates of a matrix are stacked in its dimension 0 and share the codebook; with
granularity "gate" each gate has a scale of its own.
"""

from typing import Dict

from torch import nn

from espnet_gq.nn.layers import QuantizedLayer

GATES = {nn.LSTM: 4, nn.LSTMCell: 4, nn.GRU: 3, nn.GRUCell: 3}


class QuantizedRNNBase(QuantizedLayer):
    """What the quantized LSTM and GRU share."""

    @staticmethod
    def gates(layer: nn.RNNBase) -> Dict[str, int]:
        """Return the weight matrices of all layers and directions, and their gates."""
        stacked = next(n for cls, n in GATES.items() if isinstance(layer, cls))
        return {
            name: 1 if name.startswith("weight_hr") else stacked
            for name in layer._flat_weights_names
            if name.startswith("weight")
        }

    def forward(self, input, hx=None):
        # PyTorch computes with the list _flat_weights: for the time of the call it
        # holds the quantized weights instead of the parameters.
        self._flat_weights = [self.weight_in_use(n) for n in self._flat_weights_names]
        try:
            return super().forward(input, hx)
        finally:
            self._init_flat_weights()

    def _update_flat_weights(self) -> None:
        """Leave _flat_weights as they are: the forward pass sets them itself."""

    def flatten_parameters(self) -> None:
        """Do nothing: cuDNN gets the quantized weights, which are new at every step."""

    def to_float(self) -> nn.Module:
        """Return the float layer with every weight on its centroid (own copy)."""
        layer = super().to_float()
        layer._init_flat_weights()
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
    """What the quantized cells share."""

    @staticmethod
    def gates(layer: nn.RNNCellBase) -> Dict[str, int]:
        """Return the two weight matrices, and their gates."""
        stacked = next(n for cls, n in GATES.items() if isinstance(layer, cls))
        return {"weight_ih": stacked, "weight_hh": stacked}

    def forward(self, input, hx=None):
        # An attribute of the instance hides the parameter of its name.
        for name in ("weight_ih", "weight_hh"):
            self.__dict__[name] = self.weight_in_use(name)
        try:
            return super().forward(input, hx)
        finally:
            del self.__dict__["weight_ih"], self.__dict__["weight_hh"]


class QuantizedLSTMCell(QuantizedCell, nn.LSTMCell):
    """LSTM cell, weight_ih (4 hidden, input) and weight_hh (4 hidden, hidden)."""

    float_class = nn.LSTMCell


class QuantizedGRUCell(QuantizedCell, nn.GRUCell):
    """GRU cell, weight_ih (3 hidden, input) and weight_hh (3 hidden, hidden)."""

    float_class = nn.GRUCell
