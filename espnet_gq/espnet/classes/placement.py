"""Where a training configuration may have a `gq_conf`, and the errors elsewhere."""

import argparse
import inspect
import re
from dataclasses import fields
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple, Type

from espnet_gq.espnet.classes.mixin import QuantizedByConf
from espnet_gq.nn import GQConfig, GQConfigError

KEY = "gq_conf"
PLACES = "encoder_conf, decoder_conf, model_conf"
WHOLE = "model_conf: {gq_conf: ...}, which quantizes the whole model"


def check_placement(task: Type[Any], args: argparse.Namespace) -> None:
    """Refuse a `gq_conf` that no class reads, and names that are almost right.

    Names of quantized classes are converted to lower case, as ESPnet does with its own.

    Args:
        task: ESPnet's task.
        args: Its options.

    Raises:
        GQConfigError: If one is found; the message says what to write instead.
    """
    choices = {choice.name: choice for choice in task.class_choices_list}
    for part, choice in choices.items():
        _check_name(part, choice.classes, args)
    for name, value in list(vars(args).items()):
        for path, key in _keys(value):
            if not path and name.endswith("_conf"):
                _check_key(name, key, value, choices, args)
            elif _is_almost(key):
                where = ": ".join((name, *path))
                raise GQConfigError(
                    f"{KEY} is inside {where}, where nothing reads it; allowed "
                    f"directly in {PLACES}"
                )
    if any(_is_almost(name) for name in vars(args)):
        raise GQConfigError(top_level_hint())


def top_level_hint() -> str:
    """Return the hint for a `gq_conf` that belongs to no part of the model."""
    return (
        f"{KEY} belongs into model_conf, for the whole model, or into encoder_conf or "
        "decoder_conf of a gq_ class, for that part"
    )


def explain_unknown_options(parser: argparse.ArgumentParser) -> None:
    """Make a parser's error say where a misplaced `gq_conf` belongs."""
    original = parser.error

    def error(message: str):
        names = re.findall(r"[\w-]+", message.partition("arguments:")[2])
        if any(_is_almost(name.lstrip("-")) for name in names):
            message += f"; {top_level_hint()}"
        elif re.search(r"\bencoder\b.*\bgq_|\bencoder\b \(from", message):
            message += (
                "; this task has no --encoder, its encoder is quantized by "
                "encoder_conf: {gq_conf: ...}"
            )
        original(message)

    setattr(parser, "error", error)


def _keys(value: Any, path: Tuple[str, ...] = ()) -> Iterator[Tuple[tuple, str]]:
    """Yield (path of keys, key) for every key of the mappings in an option's value."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield path, str(key)
            if key != KEY:
                yield from _keys(inner, (*path, str(key)))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _keys(inner, path or ("a list",))


def _letters(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())


def _is_almost(key: str) -> bool:
    return _letters(key) in ("gq", "gqconf", "gqconfig")


def _quantized(classes: Mapping[str, type]) -> List[str]:
    return [name for name, cls in classes.items() if issubclass(cls, QuantizedByConf)]


def _check_name(part: str, classes: Dict[str, type], args: argparse.Namespace) -> None:
    name = getattr(args, part, None)
    if not isinstance(name, str) or "gq" not in name.lower() or name in classes:
        return
    quantized = _quantized(classes)
    if name.lower() in quantized:
        setattr(args, part, name.lower())
        return
    like = [known for known in quantized if _sorted(known) == _sorted(name)]
    plain = f"one that ESPnet has, and {WHOLE}"
    raise GQConfigError(
        f"{part} is {name!r}, which is no class; allowed: "
        f"{', '.join(like or quantized) or plain}"
    )


def _sorted(name: str) -> str:
    """Return a form that is equal for gq_conformer, gq-conformer and conformer_gq."""
    return _letters(name).replace("gq", "")


def _check_key(
    name: str,
    key: str,
    conf: Mapping[str, Any],
    choices: Mapping[str, Any],
    args: argparse.Namespace,
) -> None:
    """Check one key of an option NAME_conf."""
    part = name.removesuffix("_conf")
    choice = choices.get(part)
    quantized = choice and _quantized(choice.classes)
    cls = choice and choice.classes.get(str(getattr(args, part, None)).lower())
    single = choice is None and part == "encoder" and not hasattr(args, "encoder")
    reads = part == "model" or single or (cls and issubclass(cls, QuantizedByConf))
    if _is_almost(key):
        if reads and key != KEY:
            raise GQConfigError(f"{name} has {key!r}; allowed: {KEY}")
        if not reads:
            raise GQConfigError(_unread(part, getattr(args, part, None), quantized))
    elif cls and reads and key in _own_keys(cls):
        raise GQConfigError(
            f"{name} has {key!r} itself; allowed: {name}: {{{KEY}: {{{key}: "
            f"{conf[key]!r}}}}}"
        )


def _own_keys(cls: type) -> List[str]:
    """Return the keys of a `gq_conf` that are no arguments of the class."""
    arguments = inspect.signature(cls).parameters
    return [field.name for field in fields(GQConfig) if field.name not in arguments]


def _unread(part: str, name: Optional[str], quantized: Optional[List[str]]) -> str:
    """Return the error message for a `gq_conf` in the options of a float class."""
    given = f"{part}_conf has a {KEY}"
    if not quantized:
        return f"{given}, which nothing reads; allowed: {WHOLE}"
    if name is None:
        return f"{given}, and {part} is not set; allowed: {', '.join(quantized)}"
    if f"gq_{name}".lower() in quantized:
        return (
            f"{given}, and {part} is {name}, the float class; allowed: {part}: "
            f"gq_{name.lower()}, or {WHOLE}"
        )
    return (
        f"{given}, and {part} is {name}, which has no quantized class of its own; "
        f"allowed: {WHOLE}, or one of {', '.join(quantized)}"
    )
