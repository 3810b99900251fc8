"""The kinds of layer that can be quantized."""

from typing import Dict, Type

from torch import nn

from espnet_gq.nn.layers import (
    QuantizedConv1d,
    QuantizedConv2d,
    QuantizedEmbedding,
    QuantizedLayer,
    QuantizedLinear,
)
from espnet_gq.nn.recurrent import (
    QuantizedGRU,
    QuantizedGRUCell,
    QuantizedLSTM,
    QuantizedLSTMCell,
)

QUANTIZED: Dict[Type[nn.Module], Type[QuantizedLayer]] = {
    cls.float_class: cls
    for cls in (
        *(QuantizedLinear, QuantizedConv1d, QuantizedConv2d, QuantizedEmbedding),
        *(QuantizedLSTM, QuantizedGRU, QuantizedLSTMCell, QuantizedGRUCell),
    )
}
"""Quantized class of each float class. Only layers of exactly these classes are
replaced: a subclass may compute something else."""
