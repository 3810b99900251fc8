"""The refusal of a model that the engine cannot run."""

from typing import Any, Collection


class CannotExport(ValueError):
    """A part of a model that the engine does not have; the message names it."""


def require(allowed: bool, message: str) -> None:
    """Raise unless a part of a model is one that the engine has.

    Raises:
        CannotExport: With the message.
    """
    if not allowed:
        raise CannotExport(message)


def one_of(what: str, value: Any, allowed: Collection[str]) -> None:
    """Raise unless an option is among those that the engine has.

    Raises:
        CannotExport: Names the option.
    """
    require(
        value in allowed,
        f"{what} is {value}; allowed on a device: {', '.join(map(str, allowed))}",
    )
