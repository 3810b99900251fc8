"""Float layers with quantizers on their weights, under the same parameter names.

Each class extends its float layer and holds the same parameters, so a float checkpoint
loads into it; the quantizer of a parameter NAME adds `NAME_quantizer.*`. Biases stay
float. Recurrent layers are in `recurrent.py`.
"""

import contextlib
from typing import Dict, Iterator, Mapping, Optional, Tuple, Type

import torch
import torch.nn.functional as F
from torch import nn

from espnet_gq.quantizer import Quantizer
from espnet_gq.quantizer.methods import create


class QuantizedLayer:
    """What the quantized layers share; `float_class` is the layer extended."""

    float_class: Type[nn.Module]
    _held: Optional[Dict[str, torch.Tensor]] = None

    @staticmethod
    def gates(layer: nn.Module) -> Dict[str, int]:
        """Return the weights of a float layer that can be quantized.

        Returns:
            Parameter name -> number of gates stacked in dimension 0 of it.
        """
        return {"weight": 1} if layer.weight.dim() > 1 else {}

    @classmethod
    def from_float(
        cls, layer: nn.Module, options: Mapping[str, Mapping]
    ) -> "QuantizedLayer":
        """Return a quantized layer around the parameters of a float one (shared).

        Args:
            layer: Layer of exactly `float_class`.
            options: For each parameter to quantize (see `gates`) the arguments of its
                quantizer (`methods.create`) but `channels` and `gates`.
        """
        gates = cls.gates(layer)
        quantizers = {}
        for name, arguments in options.items():
            weight = getattr(layer, name)
            quantizers[f"{name}_quantizer"] = create(
                channels=weight.shape[0], gates=gates[name], **arguments
            ).to(weight.device)
        return _reclass(layer, cls, **quantizers)

    def to_float(self) -> nn.Module:
        """Return the float layer with every weight on its centroid (own copy)."""
        layer = _reclass(self, self.float_class)
        layer._parameters = dict(layer._parameters)
        for name, weight, quantizer in self.quantized():
            del layer._modules[f"{name}_quantizer"]
            layer._parameters[name] = nn.Parameter(
                quantizer.quantize(weight.detach()), requires_grad=weight.requires_grad
            )
        layer.__dict__.pop("_held", None)
        return layer

    def quantized(self) -> Iterator[Tuple[str, nn.Parameter, Quantizer]]:
        """Yield (parameter name, weight, quantizer) of every quantized weight."""
        for key, quantizer in self._modules.items():
            name = key.removesuffix("_quantizer")
            if name != key:
                yield name, self._parameters[name], quantizer

    def weight_in_use(self, name: str = "weight") -> torch.Tensor:
        """Return the form of a parameter that the forward pass computes with."""
        quantizer = self._modules.get(f"{name}_quantizer")
        if quantizer is None:
            return self._parameters[name]
        if self._held is None:
            return quantizer(self._parameters[name])
        if name not in self._held:
            self._held[name] = quantizer(self._parameters[name])
        return self._held[name]


@contextlib.contextmanager
def quantized_once(module: nn.Module) -> Iterator[None]:
    """Quantize each weight of a module once within the block, whatever uses it.

    For a forward pass that calls its layers again and again (a decoder that steps
    through its labels). Weights must not change within the block.
    """
    layers = [m for m in module.modules() if isinstance(m, QuantizedLayer)]
    for layer in layers:
        layer._held = {}
    try:
        yield
    finally:
        for layer in layers:
            layer._held = None


def _reclass(layer: nn.Module, cls: type, **modules: nn.Module) -> nn.Module:
    """Return a module of another class with the same contents (parameters shared)."""
    new = cls.__new__(cls)
    new.__dict__.update(layer.__dict__)
    for name in ("_parameters", "_buffers", "_modules"):
        new.__dict__[name] = layer.__dict__[name].copy()
    for name, module in modules.items():
        module.train(layer.training)
        new.add_module(name, module)
    return new


class QuantizedLinear(QuantizedLayer, nn.Linear):
    """Linear layer, weight (out_features, in_features) quantized."""

    float_class = nn.Linear

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return F.linear(input, self.weight_in_use(), self.bias)


class QuantizedConv1d(QuantizedLayer, nn.Conv1d):
    """1-D convolution, weight (out_channels, in_channels / groups, k) quantized."""

    float_class = nn.Conv1d

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(input, self.weight_in_use(), self.bias)


class QuantizedConv2d(QuantizedLayer, nn.Conv2d):
    """2-D convolution, weight (out_channels, in_channels / groups, h, w) quantized."""

    float_class = nn.Conv2d

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(input, self.weight_in_use(), self.bias)


class QuantizedEmbedding(QuantizedLayer, nn.Embedding):
    """Embedding, weight (num_embeddings, embedding_dim) quantized.

    The row of `padding_idx` is quantized like any other: no codebook has a zero, so
    padding is embedded as the smallest centroids.
    """

    float_class = nn.Embedding

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return F.embedding(
            input,
            self.weight_in_use(),
            self.padding_idx,
            self.max_norm,
            self.norm_type,
            self.scale_grad_by_freq,
            self.sparse,
        )
