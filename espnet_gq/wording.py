"""How sentences about bad input quote it."""

from typing import Any

LONGEST = 80


def shown(value: Any) -> str:
    """Return a value as a sentence quotes it: its repr, cut where it is long."""
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
