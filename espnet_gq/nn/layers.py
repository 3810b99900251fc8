"""Float layers with quantizers on their weights, under the same parameter names.

Each class extends its float layer and holds the same parameters, so a float checkpoint
loads into it; the quantizer of a parameter NAME adds `NAME_quantizer.*`. Biases stay
float. Recurrent layers are in `recurrent.py`.
"""

import contextlib
import contextvars
from typing import Any, Dict, Iterator, Mapping, Optional, Tuple, Type, cast

import torch
import torch.nn.functional as F
from torch import nn

from espnet_gq.nn.weight_view import WeightView
from espnet_gq.quantizer import Quantizer

SUFFIX = "_quantizer"
"""The quantizer of the parameter NAME is the layer's child NAME_quantizer."""

_held: contextvars.ContextVar[Optional[Dict[int, Dict[int, torch.Tensor]]]] = (
    contextvars.ContextVar("held", default=None)
)
"""Within `quantized_once`: layer -> quantizer -> quantized weight, by their ids."""


class QuantizedLayer(nn.Module):
    """Base class of quantized layers; `float_class` is the layer that is extended."""

    float_class: Type[nn.Module]

    @staticmethod
    def gates(layer: nn.Module) -> Dict[str, int]:
        """Return the weights of a float layer that can be quantized.

        Returns:
            Parameter name -> number of gates stacked in dimension 0 of it.
        """
        return matrices(layer, {"weight": 1})

    @classmethod
    def from_float(
        cls, layer: nn.Module, quantizers: Mapping[str, Quantizer]
    ) -> "QuantizedLayer":
        """Turn a float layer into its quantized form, in place.

        Whatever refers to the layer, under any name, then refers to the quantized one.

        Args:
            layer: Layer of exactly `float_class`.
            quantizers: Quantizer of each parameter to quantize (see `gates`).

        Returns:
            The layer.
        """
        layer.__class__ = cls
        for name, quantizer in quantizers.items():
            quantizer.train(layer.training)
            layer.add_module(name + SUFFIX, quantizer)
        return cast(QuantizedLayer, layer)

    def to_float(self) -> nn.Module:
        """Turn the layer, in place, into the float one with hardened weights.

        Returns:
            The layer, which then has new parameters.
        """
        hardened = {
            name: nn.Parameter(
                quantizer.fitted_to(weight).quantize(weight.detach()),
                requires_grad=weight.requires_grad,
            )
            for name, weight, quantizer in self.quantized()
        }
        for name, parameter in hardened.items():
            del self._modules[name + SUFFIX]
            self._parameters[name] = parameter
        self.__class__ = self.float_class  # type: ignore[assignment]
        return self

    def quantized(self) -> Iterator[Tuple[str, nn.Parameter, Quantizer]]:
        """Yield (parameter name, weight, quantizer) of every quantized weight."""
        for key, quantizer in self._modules.items():
            name = key.removesuffix(SUFFIX)
            if name != key:
                yield name, self.latent_weight(name), cast(Quantizer, quantizer)

    def latent_weight(self, name: str = "weight") -> nn.Parameter:
        """Return a parameter as it is trained, before it is quantized.

        Raises:
            RuntimeError: If it is not a parameter any more.
        """
        weight = self._parameters.get(name)
        if weight is None and getattr(self, "_is_replica", False):  # of nn.DataParallel
            weight = self.__dict__.get(name)
        if weight is None:
            raise RuntimeError(
                f"'{name}' of a quantized {self.float_class.__name__} is not a "
                "parameter any more (weight_norm, parametrize and pruning replace it); "
                "allowed: to apply these before espnet_gq.prepare, which then leaves "
                "the layer float"
            )
        return weight

    def weight_in_use(self, name: str = "weight") -> torch.Tensor:
        """Return the form of a parameter that the forward pass computes with.

        Raises:
            RuntimeError: If the module is being traced or exported.
        """
        quantizer = self._modules.get(name + SUFFIX)
        weight = self.latent_weight(name)
        if quantizer is None:
            return weight
        if torch.jit.is_tracing() or torch.compiler.is_exporting():
            raise RuntimeError(
                "a module prepared for training cannot be traced or exported; allowed: "
                "the float module that espnet_gq.harden returns, or a packed one"
            )
        held = _held.get()
        if held is None or id(self) not in held:
            return quantizer(weight)
        mine = held[id(self)]
        if id(quantizer) not in mine:
            mine[id(quantizer)] = quantizer(weight)
        return mine[id(quantizer)]

    def __getattr__(self, name: str) -> Any:
        if name + SUFFIX in self.__dict__.get("_modules", ()):
            return WeightView.of(self, name, self.latent_weight(name))
        return super().__getattr__(name)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        # Float weights without quantizers: a codebook fitted to other weights is stale.
        # ESPnet's --init_param completes such a checkpoint with the model's own values.
        for name, weight, quantizer in self.quantized():
            given = state_dict.get(prefix + name)
            saved = state_dict.get(f"{prefix}{name}{SUFFIX}.saved_state")
            if given is None or (saved is not None and not _same(saved, quantizer)):
                continue
            if saved is None or not _shares_memory(given, weight):
                quantizer.forget_fit()
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _shares_memory(a: torch.Tensor, b: torch.Tensor) -> bool:
    return not a.is_meta and not b.is_meta and a.data_ptr() == b.data_ptr()


def _same(saved: torch.Tensor, quantizer: Quantizer) -> bool:
    return _shares_memory(saved, quantizer.saved_state)


def matrices(layer: nn.Module, gates: Mapping[str, int]) -> Dict[str, int]:
    """Return the gates of those named parameters of a layer that are matrices."""
    found = {name: layer._parameters.get(name) for name in gates}
    return {n: gates[n] for n, p in found.items() if p is not None and p.dim() > 1}


@contextlib.contextmanager
def quantized_once(module: nn.Module) -> Iterator[None]:
    """Quantize each weight of a module once within the block, whatever uses it.

    For a forward pass that calls its layers again and again (a decoder that steps
    through its labels). Weights must not change within the block. Other threads are
    not affected.
    """
    layers = (m for m in module.modules() if isinstance(m, QuantizedLayer))
    token = _held.set({**(_held.get() or {}), **{id(layer): {} for layer in layers}})
    try:
        yield
    finally:
        _held.reset(token)


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

    The row of `padding_idx` is quantized like any other. A codebook with a zero (LSQ's,
    the ternary one at 2 bits) keeps it zero. Other codebooks have none: with one scale
    per tensor, padding is embedded as the centroids nearest to zero; with one per
    channel, the scale of that row is too small to matter.

    `max_norm` limits the quantized rows that are looked up, and in training those of
    the parameter too, as nn.Embedding does. Gradients are dense also with
    `sparse=True`.
    """

    float_class = nn.Embedding

    @classmethod
    def from_float(cls, layer, quantizers):
        for quantizer in quantizers.values():
            quantizer.idle_row = layer.padding_idx
        return super().from_float(layer, quantizers)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        # Evaluation equals the hardened layer, which limits rows that are quantized.
        if self.max_norm is not None and self.training:
            with torch.no_grad():  # in place, as nn.Embedding does
                weight, rows = self.latent_weight(), input.reshape(-1).contiguous()
                torch.embedding_renorm_(weight, rows, self.max_norm, self.norm_type)
        rows = F.embedding(
            input,
            self.weight_in_use(),
            self.padding_idx,
            scale_grad_by_freq=self.scale_grad_by_freq,
        )
        if self.max_norm is None:
            return rows
        return limited(rows, self.max_norm, self.norm_type)


def limited(rows: torch.Tensor, max_norm: float, norm_type: float) -> torch.Tensor:
    """Return vectors (..., n); those longer than `max_norm` are scaled down to it.

    Like `torch.embedding_renorm_`, but not in place; the factors have no gradient.
    """
    norm = rows.detach().norm(norm_type, -1, keepdim=True)
    factor = torch.where(norm > max_norm, max_norm / (norm + 1e-7), 1.0)
    return rows * factor.to(rows.dtype)
