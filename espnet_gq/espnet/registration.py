"""Applies the holds on ESPnet (`holds`) to its modules when they are imported."""

import contextlib
import functools
import importlib
import inspect
from types import ModuleType
from typing import Any, Iterator, Mapping, Tuple
from weakref import WeakSet

import wrapt

from espnet_gq._compat import espnet_version
from espnet_gq.espnet.holds import Hold, Kind, holds
from espnet_gq.espnet.training.transducer_loss import provide_when_missing

_replacements: WeakSet = WeakSet()
"""What `install` has put in ESPnet's place."""


class HoldError(RuntimeError):
    """ESPnet has changed where the plugin holds on to it."""

    def __init__(self, hold: Hold, problem: str):
        super().__init__(
            f"{hold} {problem}, but espnet_gq extends it ({hold.kind.value}: "
            f"{hold.reason}); allowed: an ESPnet release that espnet_gq supports"
        )


def find(hold: Hold, module: ModuleType) -> Tuple[Any, str, Any]:
    """Return where a hold's name lies: its owner, the last part of it, and the value.

    Args:
        hold: The hold.
        module: Its module, imported.

    Raises:
        HoldError: If there is no such name, or its value is not of the hold's kind.
    """
    owner: Any = module
    *parents, name = hold.name.split(".")
    try:
        for parent in parents:
            owner = getattr(owner, parent)
        value = inspect.getattr_static(owner, name)
    except AttributeError:
        raise HoldError(hold, "does not exist") from None
    is_class = isinstance(value, type)
    fits = {
        Kind.REGISTERED: isinstance(getattr(value, "classes", None), dict),
        Kind.SUBCLASS: is_class,
        Kind.WRAPPED: callable(_function(value)) and not is_class,
        Kind.PROXIED: isinstance(value, ModuleType),
        Kind.SCOPED: is_class,
    }
    if not fits[hold.kind]:
        raise HoldError(hold, f"is a {type(value).__name__}")
    return owner, name, value


def is_installed(hold: Hold, module: ModuleType) -> bool:
    """Return whether a hold is applied.

    A function that one module takes from another is extended with it.
    """
    value = find(hold, module)[2]
    if hold.kind is Kind.REGISTERED:
        return _load(hold.by).items() <= value.classes.items()
    return _function(value) in _replacements


def install(hold: Hold, module: ModuleType) -> None:
    """Apply a hold; does nothing where it is applied already.

    Args:
        hold: The hold.
        module: Its module, imported.

    Raises:
        HoldError: If ESPnet no longer has what is held.
        RuntimeError: If ESPnet already has a class under a name to be registered.
    """
    if is_installed(hold, module):
        return
    owner, name, value = find(hold, module)
    ours = _load(hold.by)
    if hold.kind is Kind.REGISTERED:
        _register(value, ours)
        return
    if hold.kind is Kind.SUBCLASS and not issubclass(ours, value):
        raise HoldError(hold, f"is {value.__module__}.{value.__qualname__}")
    new = ours
    if hold.kind is Kind.WRAPPED:
        original = _function(value)
        ours = functools.update_wrapper(ours(original), original)
        is_method = isinstance(value, (classmethod, staticmethod))
        new = type(value)(ours) if is_method else ours
    _replacements.add(ours)
    setattr(owner, name, new)


def _function(value: Any) -> Any:
    """Return the function in a class method or static method, else the value."""
    return value.__func__ if isinstance(value, (classmethod, staticmethod)) else value


def _load(by: str) -> Any:
    module, name = by.split(":")
    return getattr(importlib.import_module(f"espnet_gq.espnet.{module}"), name)


def _register(choices: Any, classes: Mapping[str, type]) -> None:
    for name, cls in classes.items():
        known = choices.classes.setdefault(name, cls)
        if known is not cls:
            raise RuntimeError(
                f"ESPnet already has {choices.name} '{name}' ({known.__module__}); "
                "espnet_gq cannot register its own"
            )


def install_all(module: ModuleType) -> None:
    """Apply all holds on a module of ESPnet, except those of one command."""
    for hold in holds(espnet_version()):
        if hold.module == module.__name__ and hold.kind is not Kind.SCOPED:
            install(hold, module)


@contextlib.contextmanager
def replaced(hold: Hold, module: ModuleType, value: Any) -> Iterator[None]:
    """Within the block, a value takes the place of a SCOPED hold's class.

    Args:
        hold: The hold.
        module: Its module, imported.
        value: The value, which calls what `hold.by` names.
    """
    owner, name, original = find(hold, module)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


@functools.lru_cache(maxsize=None)
def register_when_imported() -> None:
    """Apply the holds to modules that are imported already, else at their import.

    Also provides the transducer loss where `warprnnt_pytorch` is missing.
    """
    provide_when_missing()
    for name in dict.fromkeys(hold.module for hold in holds(espnet_version())):
        wrapt.register_post_import_hook(install_all, name)
