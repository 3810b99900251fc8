"""Verbs on a whole module: prepare it for training, harden it, count its bits."""

import copy
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Mapping, Tuple, Type, Union

import torch
from torch import nn

from espnet_gq.nn.config import GQConfig, GQConfigError
from espnet_gq.nn.finite import check_finite
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
from espnet_gq.quantizer import Quantizer
from espnet_gq.wording import shown

QUANTIZED: Dict[Type[nn.Module], Type[QuantizedLayer]] = {
    cls.float_class: cls
    for cls in (
        *(QuantizedLinear, QuantizedConv1d, QuantizedConv2d, QuantizedEmbedding),
        *(QuantizedLSTM, QuantizedGRU, QuantizedLSTMCell, QuantizedGRUCell),
    )
}
"""Quantized class of each float class. Only layers of exactly these classes are
replaced: a subclass may compute something else."""


def quantizable(module: nn.Module) -> Dict[str, List[str]]:
    """Return the layers that `prepare` would replace.

    Returns:
        Name of the layer -> names of its parameters that can be quantized.
    """
    found = {
        name: list(QUANTIZED[type(child)].gates(child))
        for name, child in module.named_modules()
        if type(child) in QUANTIZED
    }
    return {name: weights for name, weights in found.items() if weights}


def prepare(
    module: nn.Module, config: Union[GQConfig, Mapping[str, Any], None] = None
) -> nn.Module:
    """Make a module quantization-aware, in place.

    Every Linear, Conv1d, Conv2d, Embedding, LSTM, GRU, LSTMCell and GRUCell is replaced
    by its quantized form under the same parameter names. Each weight matrix of a
    recurrent layer has a quantizer of its own. Layers that share one weight get one
    quantizer each.

    Args:
        module: Any torch module.
        config: GQConfig or its dict form.

    Returns:
        The module (its quantized form where it is itself a layer).

    Raises:
        GQConfigError: If the configuration is wrong, or one of its patterns matches
            no layer.
    """
    if not isinstance(config, GQConfig):
        config = GQConfig.from_dict(config)
    layers = quantizable(module)
    for rule in config.rules:
        if not any(rule.matches(name, w) for name in layers for w in layers[name]):
            raise GQConfigError(
                f"gq_conf.rules: pattern {shown(rule.pattern)} matches no layer; "
                f"allowed: a pattern for one of {_examples(layers)}"
            )
    for name, weights in layers.items():
        options = {w: config.quantizer_options(name, w) for w in weights}
        options = {w: given for w, given in options.items() if given is not None}
        if not options:
            continue
        layer = module.get_submodule(name)
        try:
            new = QUANTIZED[type(layer)].from_float(layer, options)
        except ValueError as e:  # a method that does not know this bit width
            raise GQConfigError(f"gq_conf: {name}: {e}") from None
        if name == "":
            return new
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, new)
    return module


def _examples(layers: Mapping[str, List[str]]) -> str:
    if not layers:
        return "no layers: the module has none that can be quantized"
    names = [
        name if weights == ["weight"] else f"{name}.{weight}"
        for name, weights in layers.items()
        for weight in weights
    ]
    shown = ", ".join(names[:8])
    return shown + (f", ... ({len(names)} layers)" if len(names) > 8 else "")


def harden(module: nn.Module) -> nn.Module:
    """Return a float copy in which every quantized weight is its nearest centroid.

    The copy has float layers under float names: it needs no plugin, and its state dict
    loads into the float model.

    Raises:
        NotFiniteError: If a tensor holds NaN or infinite values; names it.
    """
    # A module may keep a result of its last forward pass (ESPnet's attention keeps its
    # weights); deepcopy refuses tensors with a history.
    memo = {
        id(value): value.detach()
        for child in module.modules()
        for value in vars(child).values()
        if torch.is_tensor(value) and not value.is_leaf
    }
    return harden_(copy.deepcopy(module, memo))


def harden_(module: nn.Module) -> nn.Module:
    """Harden in place; returns the module (its float form where it is a layer).

    Quantizers that were never used are fitted first.

    Raises:
        NotFiniteError: If a tensor holds NaN or infinite values; names it.
    """
    fit_quantizers(module)
    layers = list(quantized_layers(module))
    if layers:
        check_finite([*module.named_parameters(), *module.named_buffers()])
    for name, layer in layers:
        if name == "":
            return layer.to_float()
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, layer.to_float())
    return module


def quantized_layers(module: nn.Module) -> Iterator[Tuple[str, QuantizedLayer]]:
    """Yield (name, layer) of every quantized layer."""
    for name, layer in module.named_modules():
        if isinstance(layer, QuantizedLayer):
            yield name, layer


def quantized_weights(
    module: nn.Module,
) -> Iterator[Tuple[str, nn.Parameter, Quantizer]]:
    """Yield (parameter name, weight, quantizer) of every quantized tensor."""
    for name, layer in quantized_layers(module):
        prefix = name + "." if name else ""
        for weight_name, weight, quantizer in layer.quantized():
            yield prefix + weight_name, weight, quantizer


def fit_quantizers(module: nn.Module, again: bool = False) -> None:
    """Fit the quantizers that have not been (or all of them) to their weights.

    Raises:
        NotFiniteError: If a weight is NaN or infinite; names the tensor.
    """
    for name, weight, quantizer in quantized_weights(module):
        if again or not quantizer.fitted:
            check_finite([(name, weight)])
            quantizer.fit(weight)


@dataclass(frozen=True)
class Progress:
    """State of a module's annealing, as reported during training."""

    temperature: float
    """Mean inverse temperature alpha over the quantized tensors."""
    settled: float
    """Share of weights whose soft value is within 1% of the local gap of a centroid."""
    soft_hard_gap: float
    """||soft - hard|| / ||hard|| over all quantized weights."""
    effective_bits: float
    """Mean bits a quantized weight."""


@torch.no_grad()
def progress(module: nn.Module) -> Progress:
    """Measure how far the annealing has come; takes two passes over the weights."""
    total: Dict[str, float] = {}
    alphas, bits = [], 0.0
    for _, weight, quantizer in quantized_weights(module):
        alphas.append(quantizer.alpha)
        figures = quantizer.statistics(weight)
        bits += quantizer.bits * figures["numel"]
        for key, value in figures.items():
            total[key] = total.get(key, 0.0) + value
    if not alphas:
        return Progress(0.0, 0.0, 0.0, 32.0)
    numel = max(total["numel"], 1.0)
    return Progress(
        temperature=sum(alphas) / len(alphas),
        settled=total["settled"] / numel,
        soft_hard_gap=(total["gap"] / max(total["hard"], 1e-300)) ** 0.5,
        effective_bits=bits / numel,
    )


def advance(module: nn.Module) -> None:
    """Count one optimizer step in every quantizer; call it after `optimizer.step()`."""
    for layer in module.modules():
        if isinstance(layer, Quantizer):
            layer.advance()
