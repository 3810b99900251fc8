"""`gq_conf`: which layers are quantized, and to how many bits."""

import fnmatch
import sys
from dataclasses import dataclass, field, fields
from typing import Any, Dict, List, Mapping, Optional, Tuple

from espnet_gq.quantizer.annealing import CURVES, Annealing
from espnet_gq.quantizer.codebook import GRANULARITIES
from espnet_gq.quantizer.general import FORWARDS, AnnealedQuantizer
from espnet_gq.quantizer.methods import METHODS, own_options
from espnet_gq.wording import quoted


class GQConfigError(ValueError):
    """A gq_conf that cannot be used: names the key, what was given, what is allowed."""


def _is_number(value: Any, kind: Any = (int, float)) -> bool:
    """Return whether a value is a number that a float can hold; bools are none."""
    if isinstance(value, bool) or not isinstance(value, kind):
        return False
    return abs(value) <= sys.float_info.max  # NaN is not


def _check_keys(where: str, given: Mapping, allowed: List[str]) -> None:
    for key in given:
        if key not in allowed:
            raise GQConfigError(
                f"{where}: unknown key {quoted(key)}; allowed: {', '.join(allowed)}"
            )


def _check_bits(where: str, bits: Any) -> None:
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 8:
        raise GQConfigError(
            f"{where}: bits is {quoted(bits)}; allowed: a whole number from 1 to 8"
        )


def _check_choice(where: str, key: str, value: Any, allowed: Tuple[str, ...]) -> None:
    if value not in allowed:
        raise GQConfigError(
            f"{where}: {key} is {quoted(value)}; allowed: {', '.join(allowed)}"
        )


@dataclass(frozen=True)
class Rule:
    """Settings for the weights whose name matches a pattern.

    Args:
        pattern: Shell pattern ("*" also crosses dots) for the name of a layer inside
            the quantized module, such as "encoders.*.feed_forward.*", or for that of
            one of its parameters, such as "enc.0.*.weight_hh_l*".
        bits: Bit width instead of the default. None: the default.
        granularity: "tensor", "gate" or "channel" instead of the default. None: the
            default.
        float: True leaves the weights unquantized.

    Raises:
        GQConfigError: If a value has the wrong type or is out of range.
    """

    pattern: str
    bits: Optional[int] = None
    granularity: Optional[str] = None
    float: bool = False

    def __post_init__(self):
        if not isinstance(self.pattern, str) or not self.pattern:
            raise GQConfigError(
                f"gq_conf.rules: pattern is {quoted(self.pattern)}; allowed: a pattern "
                'of names of modules such as "encoders.0.*"'
            )
        where = f"gq_conf.rules, pattern {quoted(self.pattern)}"
        if self.bits is not None:
            _check_bits(where, self.bits)
        if self.granularity is not None:
            _check_choice(where, "granularity", self.granularity, GRANULARITIES)
        if not isinstance(self.float, bool):
            raise GQConfigError(
                f"{where}: float is {quoted(self.float)}; allowed: true, false"
            )
        if self.float and (self.bits is not None or self.granularity is not None):
            raise GQConfigError(
                f"{where}: float: true excludes bits and granularity; allowed: one or "
                "the other"
            )
        if not self.float and self.bits is None and self.granularity is None:
            raise GQConfigError(
                f"{where}: nothing is set; allowed: bits, granularity or float: true"
            )

    def matches(self, layer: str, weight: str = "weight") -> bool:
        """Return whether the pattern is that of a layer, or of this parameter of it.

        Parameters of a re-parametrization also have the name of the weight that is
        computed from them: `conv.weight_v` and `conv.parametrizations.weight.original1`
        match `conv` and `conv.weight`.
        """
        names = _names(layer, weight)
        return any(fnmatch.fnmatchcase(name, self.pattern) for name in names)


def _names(layer: str, weight: str) -> List[str]:
    """Return the names of a parameter and of its layer, as a pattern may have them."""
    found = [layer, f"{layer}.{weight}" if layer else weight]
    owner, inside, computed = f".{layer}".rpartition(".parametrizations.")
    if inside and weight.startswith("original"):
        found += _names(owner.removeprefix("."), computed)
    for suffix in ("_v", "_orig"):
        if weight.endswith(suffix):
            found += _names(layer, weight.removesuffix(suffix))
    return found


@dataclass(frozen=True)
class GQConfig:
    """How a module is quantized; the Python form of `gq_conf`.

    Args:
        bits: Default bit width, 1 to 8.
        rules: Ordered rules (Rule, or dicts of its arguments); for each weight the
            first one that matches decides, and the default where none does.
        granularity: One scale per "tensor", per "gate" (of recurrent layers; per tensor
            elsewhere) or per output "channel". None: by bit width (per channel below 4
            bits).
        forward: "soft", "hard", or "auto" (by bit width).
        annealing: Schedule of the inverse temperature (Annealing, or a dict of its
            arguments).
        every: Quantize at every k-th optimizer step only.
        method: "gq", or a baseline: "uniform", "lsq", "lloyd_max", "dkm", "free",
            "ternary" (`espnet_gq.quantizer.methods`).
        method_conf: Options of this method alone, such as {mu: 255} for "gq".

    Raises:
        GQConfigError: If a key is unknown or a value has the wrong type or range.
    """

    bits: int = 5
    rules: Tuple[Rule, ...] = ()
    granularity: Optional[str] = None
    forward: str = "auto"
    annealing: Annealing = field(default_factory=Annealing)
    every: int = 1
    method: str = "gq"
    method_conf: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        _check_bits("gq_conf", self.bits)
        if self.granularity is not None:
            _check_choice("gq_conf", "granularity", self.granularity, GRANULARITIES)
        _check_choice("gq_conf", "forward", self.forward, FORWARDS)
        every = self.every
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise GQConfigError(
                f"gq_conf: every is {quoted(every)}; allowed: a whole number from 1"
            )
        _check_choice("gq_conf", "method", self.method, tuple(METHODS))
        if self.forward != "auto" and not issubclass(
            METHODS[self.method], AnnealedQuantizer
        ):
            raise GQConfigError(
                f"gq_conf: forward is '{self.forward}' with method '{self.method}', "
                "which has no annealed assignment; allowed: auto"
            )
        object.__setattr__(
            self, "method_conf", _method_conf(self.method, self.method_conf)
        )
        object.__setattr__(self, "annealing", _annealing(self.annealing))
        object.__setattr__(self, "rules", _rules(self.rules))

    @classmethod
    def from_dict(cls, conf: Optional[Mapping[str, Any]]) -> "GQConfig":
        """Build from the YAML form; None and {} give the defaults.

        Raises:
            GQConfigError: If a key is unknown or a value has the wrong type or range.
        """
        if conf is None:
            return cls()
        if not isinstance(conf, Mapping):
            raise GQConfigError(
                f"gq_conf is {quoted(conf)}; allowed: a mapping such as {{bits: 5}}"
            )
        _check_keys("gq_conf", conf, [f.name for f in fields(cls)])
        return cls(**conf)

    def quantizer_options(
        self, layer: str, weight: str = "weight"
    ) -> Optional[Dict[str, Any]]:
        """Return the arguments of a weight's quantizer, None to leave it float.

        Args:
            layer: Name of the layer inside the quantized module.
            weight: Name of the parameter inside the layer.
        """
        rule = next((r for r in self.rules if r.matches(layer, weight)), None)
        return self.options(rule)

    def options(self, rule: Optional[Rule]) -> Optional[Dict[str, Any]]:
        """Return the arguments of a quantizer under a rule, None to leave it float."""
        if rule is not None and rule.float:
            return None
        options = dict(
            bits=self.bits,
            granularity=self.granularity,
            forward=self.forward,
            annealing=self.annealing,
            every=self.every,
            method=self.method,
            **self.method_conf,
        )
        if rule is not None and rule.bits is not None:
            options["bits"] = rule.bits
        if rule is not None and rule.granularity is not None:
            options["granularity"] = rule.granularity
        return options


def _method_conf(method: str, value: Any) -> Dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise GQConfigError(
            f"gq_conf: method_conf is {quoted(value)}; allowed: a mapping such as "
            "{temperature: 0.1}"
        )
    allowed = own_options(method)
    if value and not allowed:
        raise GQConfigError(
            f"gq_conf: method_conf is {quoted(dict(value))}; allowed: none with method "
            f"'{method}'"
        )
    _check_keys("gq_conf.method_conf", value, list(allowed))
    for key, given in value.items():
        if isinstance(allowed[key], bool):
            if not isinstance(given, bool):
                raise GQConfigError(
                    f"gq_conf.method_conf: {key} is {quoted(given)}; allowed: true, "
                    "false"
                )
            continue
        if not _is_number(given) or given < 0:
            raise GQConfigError(
                f"gq_conf.method_conf: {key} is {quoted(given)}; allowed: a number "
                "from 0"
            )
    return dict(value)


def _annealing(value: Any) -> Annealing:
    if isinstance(value, Annealing):
        return value
    if value is None:
        return Annealing()
    if not isinstance(value, Mapping):
        raise GQConfigError(
            f"gq_conf: annealing is {quoted(value)}; allowed: a mapping such as "
            "{start: 3, end: 50}"
        )
    allowed = {f.name: f.type for f in fields(Annealing)}
    _check_keys("gq_conf.annealing", value, list(allowed))
    for key, given in value.items():
        whole = key in ("steps", "warmup_steps")
        if given is None and key in ("start", "end", "steps"):
            continue
        if key == "curve":
            _check_choice("gq_conf.annealing", key, given, CURVES)
        elif not _is_number(given, int if whole else (int, float)):
            words = "a whole number" if whole else "a number"
            raise GQConfigError(
                f"gq_conf.annealing: {key} is {quoted(given)}; allowed: {words}"
            )
    try:
        return Annealing(**value)
    except ValueError as e:
        raise GQConfigError(f"gq_conf.{e}") from None


def _rules(value: Any) -> Tuple[Rule, ...]:
    if value is None:
        return ()
    if isinstance(value, (str, Mapping)) or not isinstance(value, (list, tuple)):
        raise GQConfigError(
            f"gq_conf: rules is {quoted(value)}; allowed: a list of mappings such as "
            '[{pattern: "encoders.0.*", bits: 8}]'
        )
    rules = []
    for item in value:
        if isinstance(item, Rule):
            rules.append(item)
            continue
        if not isinstance(item, Mapping):
            raise GQConfigError(
                f"gq_conf.rules: {quoted(item)} is not a rule; allowed: a mapping such "
                'as {pattern: "encoders.0.*", bits: 8}'
            )
        _check_keys("gq_conf.rules", item, [f.name for f in fields(Rule)])
        if "pattern" not in item:
            raise GQConfigError(
                f"gq_conf.rules: {quoted(dict(item))} has no pattern; allowed: a "
                'mapping such as {pattern: "encoders.0.*", bits: 8}'
            )
        rules.append(Rule(**item))
    return tuple(rules)
