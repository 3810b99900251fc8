"""Float layers with quantizers on their weights, under the same parameter names.

Each class extends its float layer and holds the same parameters, so a float checkpoint
loads into it; the quantizer of a parameter NAME adds `NAME_quantizer.*`. Biases stay
float. Recurrent layers are in `recurrent.py`, embeddings in `embeddings.py`.
"""

import contextlib
import contextvars
from typing import Any, Dict, Iterator, Mapping, Optional, Tuple, Type, cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from espnet_gq.nn.weight_view import WeightView
from espnet_gq.quantizer import Quantizer

SUFFIX = "_quantizer"
"""The quantizer of the parameter NAME is the layer's child NAME_quantizer."""

TRACED = (
    "a module prepared for training cannot be traced or exported; allowed: the float "
    "module that espnet_gq.harden returns, or a packed one"
)

_held: contextvars.ContextVar[Optional[Dict[int, Dict[int, torch.Tensor]]]] = (
    contextvars.ContextVar("held", default=None)
)
"""Within `quantized_once`: layer -> quantizer -> quantized weight, by their ids."""


class QuantizedLayer(nn.Module):
    """Base class of quantized layers; `float_class` is the layer that is extended."""

    float_class: Type[nn.Module]

    @staticmethod
    def gates(layer: nn.Module) -> Dict[str, int]:
        """Return the weights that a layer of this kind computes with.

        Returns:
            Name -> number of gates stacked in dimension 0. The layer may lack some of
            them, or compute them from others (weight norm).
        """
        return {"weight": 1}

    @classmethod
    def from_float(
        cls, layer: nn.Module, quantizers: Mapping[str, Quantizer]
    ) -> "QuantizedLayer":
        """Turn a float layer into its quantized form, in place.

        Whatever refers to the layer, under any name, then refers to the quantized one.

        Args:
            layer: Layer of exactly `float_class`.
            quantizers: Quantizer of each parameter to quantize.

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
                "allowed: to apply these before espnet_gq.prepare, which then "
                "quantizes what they compute the weight from"
            )
        return weight

    def weight_in_use(self, name: str = "weight") -> torch.Tensor:
        """Return the form of a parameter that the forward pass computes with.

        Raises:
            RuntimeError: If the module is being traced or exported.
        """
        quantizer = self._modules.get(name + SUFFIX)
        if quantizer is None:  # float, or computed by a hook or a parametrization
            weight = self._parameters.get(name)
            return getattr(self, name) if weight is None else weight
        weight = self.latent_weight(name)
        if torch.jit.is_tracing() or torch.compiler.is_exporting():
            raise RuntimeError(TRACED)
        held = _held.get()
        if held is None or id(self) not in held:
            return quantizer(weight)
        mine = held[id(self)]
        if id(quantizer) not in mine:
            mine[id(quantizer)] = quantizer(weight)
        return mine[id(quantizer)]

    def __getattr__(self, name: str) -> Any:
        if name + SUFFIX in self.__dict__.get("_modules", ()):
            if torch.compiler.is_exporting():  # the view would fail in its own words
                raise RuntimeError(TRACED)
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


class QuantizedConv3d(QuantizedLayer, nn.Conv3d):
    """3-D convolution, weight (out_channels, in_channels / groups, d, h, w)
    quantized."""

    float_class = nn.Conv3d

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(input, self.weight_in_use(), self.bias)


class QuantizedConvTranspose1d(QuantizedLayer, nn.ConvTranspose1d):
    """Transposed 1-D convolution, weight (in_channels, out_channels / groups, k)
    quantized; granularity "channel" gives each input channel its own scale."""

    float_class = nn.ConvTranspose1d


class QuantizedConvTranspose2d(QuantizedLayer, nn.ConvTranspose2d):
    """Transposed 2-D convolution, weight (in_channels, out_channels / groups, h, w)
    quantized; granularity "channel" gives each input channel its own scale."""

    float_class = nn.ConvTranspose2d


class QuantizedConvTranspose3d(QuantizedLayer, nn.ConvTranspose3d):
    """Transposed 3-D convolution, weight (in_channels, out_channels / groups, d, h, w)
    quantized; granularity "channel" gives each input channel its own scale."""

    float_class = nn.ConvTranspose3d


class QuantizedBilinear(QuantizedLayer, nn.Bilinear):
    """Bilinear layer, weight (out_features, in1_features, in2_features) quantized."""

    float_class = nn.Bilinear


class QuantizedMultiheadAttention(QuantizedLayer, nn.MultiheadAttention):
    """Multi-head attention with its input projections quantized.

    Quantized: in_proj_weight (3 embed_dim, embed_dim), whose gates are query, key and
    value, or q_proj_weight, k_proj_weight and v_proj_weight (embed_dim, kdim or vdim).
    `out_proj` is a linear layer of its own. PyTorch's fused path is not taken.
    """

    float_class = nn.MultiheadAttention

    @staticmethod
    def gates(layer: nn.Module) -> Dict[str, int]:
        """Return the names of the projections, see `QuantizedLayer`."""
        separate = dict.fromkeys(("q_proj_weight", "k_proj_weight", "v_proj_weight"), 1)
        return {"in_proj_weight": 3, **separate}


class QuantizedParametrizationList(QuantizedLayer, ParametrizationList):
    """The parametrizations of a weight (torch.nn.utils.parametrize), which compute it
    from quantized tensors.

    Quantized: `original`, or those of `original0`, `original1`, ... that are matrices.
    """

    float_class = ParametrizationList

    @staticmethod
    def gates(layer: nn.Module) -> Dict[str, int]:
        """Return nothing: the layer whose weight is computed has the names."""
        return {}

    def __len__(self) -> int:
        return sum(not name.endswith(SUFFIX) for name in self._modules)

    def __iter__(self) -> Iterator[nn.Module]:
        return iter([m for n, m in self._modules.items() if not n.endswith(SUFFIX)])


class QuantizedOther(QuantizedLayer):
    """Any other module with a matrix `weight`, whose code then reads the quantized
    one; granularity "channel" gives each slice of dimension 0 its own scale."""

    float_class = nn.Module
