"""Names and texts that others wrote, such that a terminal shows them as text."""

from __future__ import annotations

from typing import Any


def printable(text: str) -> str:
    r"""The text with a code for each character that a terminal would obey, or an encoding would refuse.

    Example:
        >>> printable("run\x1b[2J")
        'run\\x1b[2J'
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def printable_all(value: Any) -> Any:
    """Plain data with all of its texts made printable."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(str(name)): printable_all(inner) for name, inner in value.items()}
    return [printable_all(inner) for inner in value] if isinstance(value, list) else value
