"""Makes names and texts from foreign files safe to print on a terminal."""

from __future__ import annotations

from typing import Any


def printable(text: str) -> str:
    r"""The text with an escape code for each character that is a terminal command or cannot be encoded.

    Example:
        >>> printable("run\x1b[2J")
        'run\\x1b[2J'
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def printable_all(value: Any) -> Any:
    """Plain data with all of its strings made printable."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(str(name)): printable_all(inner) for name, inner in value.items()}
    return [printable_all(inner) for inner in value] if isinstance(value, list) else value
