"""Verbs on a whole module: prepare it for training, harden it."""

import copy
import logging
from dataclasses import dataclass
from typing import (
    Any,
    Dict,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Union,
    cast,
)

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from espnet_gq.nested_tensors import keep_padded
from espnet_gq.nn.config import GQConfig, GQConfigError, Rule
from espnet_gq.nn.finite import check_finite, is_weight
from espnet_gq.nn.kinds import places, quantized_class
from espnet_gq.nn.layers import SUFFIX, QuantizedLayer
from espnet_gq.nn.summary import RULE, summarize
from espnet_gq.quantizer import Quantizer
from espnet_gq.quantizer.methods import create
from espnet_gq.wording import quoted


def occurrences(module: nn.Module) -> Dict[nn.Module, List[str]]:
    """Return all modules within a module, each with every name it can be called by."""
    found: Dict[nn.Module, List[str]] = {}

    def visit(child: nn.Module, name: str, above: Tuple[nn.Module, ...]) -> None:
        found.setdefault(child, []).append(name)
        for key, grandchild in child._modules.items():
            if grandchild is not None and grandchild not in above:
                path = f"{name}.{key}" if name else key
                visit(grandchild, path, (*above, child))

    visit(module, "", ())
    return found


def quantizable(module: nn.Module) -> Dict[str, List[str]]:
    """Return the layers that `prepare` would replace.

    Returns:
        Name of the layer -> names of its parameters that can be quantized.
    """
    names = {child: name for name, child in module.named_modules()}
    found: Dict[str, List[str]] = {}
    for child in names:
        for holder, weight, _ in places(child):
            if not isinstance(holder, QuantizedLayer):
                found.setdefault(names[holder], []).append(weight)
    return found


@dataclass
class Weight:
    """A tensor that can be quantized, wherever it is used."""

    parameter: nn.Parameter
    gates: int
    """Gates stacked in dimension 0; 1 where the layers that use it disagree."""
    places: List[Tuple[nn.Module, str]]
    """Layers that use it, and its name in each."""
    names: List[Tuple[str, str]]
    """Names of these layers, and its name in each."""

    @property
    def name(self) -> str:
        """Its first name, as messages have it."""
        return _label(*self.names[0])

    @property
    def layer(self) -> str:
        """First name of the first layer that uses it."""
        return self.names[0][0]

    @property
    def attribute(self) -> str:
        """Its name in that layer."""
        return self.names[0][1]

    def rule(self, config: GQConfig) -> Optional[Rule]:
        """Return the rule that applies, None for the default.

        Raises:
            GQConfigError: If rules disagree on a tensor that has several names.
        """
        found = {
            rule: name
            for name in self.names
            for rule in [next((r for r in config.rules if r.matches(*name)), None)]
            if rule is not None
        }
        settings = {(r.bits, r.granularity, r.float) for r in found}
        if len(settings) > 1:
            raise GQConfigError(
                f"gq_conf.rules: {' and '.join(_label(*n) for n in found.values())} "
                "are one tensor, and the rules give them different settings; "
                "allowed: one setting for all names of a tensor"
            )
        return next(iter(found), None)


def weights_of(module: nn.Module) -> List[Weight]:
    """Return the quantized tensors of a prepared module, each once.

    Of each: the parameter, its gates, and the layers that use it, with their names.
    """
    return _weights(occurrences(module), quantized=True)


def _weights(
    modules: Mapping[nn.Module, List[str]], quantized: bool = False
) -> List[Weight]:
    """Return the tensors that can be quantized, or are, in the order of the modules."""
    found: Dict[int, Weight] = {}
    for module in modules:
        for layer, name, gates in places(module):
            done = isinstance(layer, QuantizedLayer)
            if done != quantized or (done and name + SUFFIX not in layer._modules):
                continue
            parameter = cast(nn.Parameter, layer._parameters[name])
            entry = found.setdefault(id(parameter), Weight(parameter, gates, [], []))
            entry.places.append((layer, name))
            entry.names += [(layer_name, name) for layer_name in modules[layer]]
            entry.gates = gates if entry.gates == gates else 1
    return list(found.values())


def prepare(
    module: nn.Module, config: Union[GQConfig, Mapping[str, Any], None] = None
) -> nn.Module:
    """Make a module quantization-aware, in place.

    Every layer that holds weights turns into its quantized form under the same
    parameter names: linear and bilinear layers, convolutions and transposed ones,
    embeddings and their bags, attention, recurrent layers and cells, classes that
    extend these, and any other module with a matrix `weight` that does not normalize.
    Where weight norm, spectral norm, pruning or another re-parametrization computes a
    weight, the parameter that it is computed from is quantized. Each matrix of a layer
    has a quantizer of its own. A layer that is used under several names, and a tensor
    that several layers share, has one.

    What was quantized and what was left float, and why, is logged;
    `espnet_gq.summarize(module)` returns it.

    Args:
        module: Any torch module.
        config: GQConfig or its dict form.

    Returns:
        The module.

    Raises:
        GQConfigError: If the configuration is wrong, one of its patterns matches no
            layer that can be quantized, a layer is quantized already, or nothing was
            quantized although no rule left everything float.
    """
    if not isinstance(config, GQConfig):
        config = GQConfig.from_dict(config)
    modules = occurrences(module)
    weights = _weights(modules)
    _check_rules(config, modules, weights)
    reasons: Dict[int, str] = {}
    plans: Dict[nn.Module, Dict[str, Quantizer]] = {}
    for weight in weights:
        rule = weight.rule(config)
        outsiders = _outsiders(modules, weight)
        options = config.options(rule)
        if rule is not None and options is None:
            reasons[id(weight.parameter)] = f"{RULE}{quoted(rule.pattern)}"
        elif outsiders:
            reasons[id(weight.parameter)] = (
                f"a {outsiders[0]}, which has no quantized form, uses the same tensor"
            )
        if options is None or outsiders:
            continue
        try:
            quantizer = create(
                channels=len(weight.parameter), gates=weight.gates, **options
            ).to(weight.parameter.device)
        except ValueError as e:  # a method that does not know this bit width
            raise GQConfigError(f"gq_conf: {weight.name}: {e}") from None
        for layer, name in weight.places:
            plans.setdefault(layer, {})[name] = quantizer
    for layer, quantizers in plans.items():
        quantized_class(layer).from_float(layer, quantizers)
        if getattr(layer, "sparse", False):
            logging.warning(
                f"GQ: {modules[layer][0] or type(layer).__name__}: sparse gradients "
                "become dense ones"
            )
    keep_padded(module, QuantizedLayer)
    found = summarize(module, reasons)
    if not plans and not all(r.startswith(RULE) for r in reasons.values() or [""]):
        raise GQConfigError(
            f"gq_conf: nothing can be quantized; {found.left_by_kind()}"
        )
    found.log()
    return module


def _outsiders(modules: Mapping[nn.Module, List[str]], weight: Weight) -> List[str]:
    """Return the classes of modules that use a tensor and cannot quantize it."""
    insiders = {id(layer) for layer, _ in weight.places}
    return [
        type(other).__name__
        for other in modules
        if id(other) not in insiders
        and any(p is weight.parameter for p in other._parameters.values())
    ]


def _check_rules(
    config: GQConfig,
    modules: Mapping[nn.Module, List[str]],
    weights: Sequence[Weight],
) -> None:
    """Refuse rules without effect, and layers that are quantized already.

    Raises:
        GQConfigError: See `prepare`.
    """
    names = [name for weight in weights for name in weight.names]
    done = [
        (name, weight, quantizer.bits)
        for layer, layer_names in modules.items()
        if isinstance(layer, QuantizedLayer)
        for weight, _, quantizer in layer.quantized()
        for name in layer_names
    ]
    present = [*names, *((name, weight) for name, weight, _ in done)]
    for rule in config.rules:
        if any(rule.matches(*name) for name in present):
            continue
        others = [
            type(child).__name__
            for child, child_names in modules.items()
            if any(
                rule.matches(name, weight)
                for name in child_names
                for weight, p in child._parameters.items()
                if p is not None and not is_lazy(p) and p.dim() > 1
            )
        ]
        if others:
            raise GQConfigError(
                f"gq_conf.rules: pattern {quoted(rule.pattern)} matches only "
                f"{', '.join(sorted(set(others)))}, which cannot be quantized; "
                f"allowed: a pattern for one of {_examples(names)}"
            )
        raise GQConfigError(
            f"gq_conf.rules: pattern {quoted(rule.pattern)} matches no layer; "
            f"allowed: a pattern for one of {_examples(names)}"
        )
    for name, weight, bits in done:
        first = next((r for r in config.rules if r.matches(name, weight)), None)
        if first is None or not first.float:
            raise GQConfigError(
                f"gq_conf: {name or 'the module'} is quantized already, to {bits} "
                "bits; allowed: to prepare a module once, a rule with float: true for "
                "layers that are to stay as they are, or espnet_gq.harden first"
            )


def _label(layer: str, weight: str) -> str:
    return (
        layer
        if layer and weight == "weight"
        else ".".join(filter(None, (layer, weight)))
    )


def _examples(names: Sequence[Tuple[str, str]]) -> str:
    if not names:
        return "no layers: the module has none that can be quantized"
    found = [_label(*name) for name in names]
    layers = len({n for n, _ in names})
    return ", ".join(found[:8]) + (f", ... ({layers} layers)" if len(found) > 8 else "")


def harden(module: nn.Module) -> nn.Module:
    """Return a float copy in which every quantized weight is its nearest centroid.

    The copy has float layers under float names: it needs no plugin, and its state dict
    loads into the float model.

    Raises:
        NotFiniteError: If a parameter holds NaN or infinite values; names it.
    """
    # A module may keep results of its last forward pass (ESPnet's attention keeps its
    # weights); deepcopy refuses tensors with a history.
    memo = {
        id(value): value.detach()
        for child in module.modules()
        for value in tree_leaves(list(vars(child).values()))
        if torch.is_tensor(value) and not value.is_leaf
    }
    return harden_(copy.deepcopy(module, memo))


def harden_(module: nn.Module) -> nn.Module:
    """Harden in place; returns the module.

    Quantizers that were never trained are fitted to the weights. Layers that shared a
    tensor share the hardened one.

    Raises:
        NotFiniteError: If a parameter holds NaN or infinite values; names it.
    """
    layers = [layer for _, layer in quantized_layers(module)]
    if layers:
        check_finite(module.named_parameters())
        check_finite(b for b in module.named_buffers() if is_weight(b[0]))
    hardened: Dict[int, Tuple[nn.Parameter, nn.Parameter]] = {}
    for layer in layers:
        before = {name: weight for name, weight, _ in layer.quantized()}
        in_float = layer.to_float()
        for name, weight in before.items():
            _, first = hardened.setdefault(
                id(weight), (weight, in_float.get_parameter(name))
            )
            setattr(layer, name, first)
    for child in module.modules():
        for name, parameter in list(child._parameters.items()):
            if id(parameter) in hardened:
                setattr(child, name, hardened[id(parameter)][1])
    return module


def quantized_layers(module: nn.Module) -> Iterator[Tuple[str, QuantizedLayer]]:
    """Yield (name, layer) of every quantized layer."""
    for name, layer in module.named_modules():
        if isinstance(layer, QuantizedLayer):
            yield name, layer


def quantized_weights(
    module: nn.Module,
) -> Iterator[Tuple[str, nn.Parameter, Quantizer]]:
    """Yield (parameter name, weight, quantizer) of every quantized tensor, once."""
    seen = set()
    for name, layer in quantized_layers(module):
        prefix = name + "." if name else ""
        for weight_name, weight, quantizer in layer.quantized():
            if id(quantizer) not in seen:
                seen.add(id(quantizer))
                yield prefix + weight_name, weight, quantizer
