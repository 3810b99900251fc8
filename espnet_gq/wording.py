"""Messages about bad input."""

from typing import Any

LONGEST = 80


def quoted(value: Any) -> str:
    """Return a value as messages quote it: its repr, cut at LONGEST characters."""
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
