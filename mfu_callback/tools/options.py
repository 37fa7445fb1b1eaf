"""What the options of public functions may be: each is checked where it is given, by a row of a table."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np

Allows = Callable[[Any], bool]

_LARGEST_WHOLE = 2**63 - 1  # what arrays of whole numbers hold
_MOST_SHOWN = 200  # characters of a value


class Option:
    """What an option may be: what one of some functions allows.

    Args:
        rule: What to give, for an error, where it follows "name=value ".
        allows: Functions of a value in plain Python.
        error: The kind of error: TypeError for an object that does something, ValueError for a setting.
    """

    def __init__(self, rule: str, *allows: Allows, error: type[Exception] = ValueError) -> None:
        self._rule = rule
        self._allows = allows
        self._error = error

    def checked(self, name: str, value: Any) -> Any:
        """The value, where it is allowed; numbers of numpy as Python's.

        Args:
            name: The name of the option.
            value: What was given.

        Raises:
            ValueError: If it is not allowed; the message has the name, the value and what to give.
            TypeError: The same, for an object that does something.
        """
        value = _plain(value)
        if not any(allows(value) for allows in self._allows):
            raise self._error(f"{name}={_shown(value)} {self._rule}")
        return value


def checked(options: Mapping[str, Option], given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of some options, each where it is allowed.

    Args:
        options: The options by name.
        given: A value for each of them.

    Raises:
        ValueError: As of `Option.checked`.
        TypeError: As of `Option.checked`.
    """
    return {name: option.checked(name, given[name]) for name, option in options.items()}


def one_of(*names: str | None) -> Allows:
    """Allows some words, and None if it is among them."""
    return lambda value: (value is None or isinstance(value, str)) and value in names


def whole(least: int, most: int = _LARGEST_WHOLE) -> Allows:
    """Allows whole numbers in a range, without True and False."""
    return lambda value: type(value) is int and least <= value <= most


def above(bound: float) -> Allows:
    """Allows finite numbers above another."""
    return lambda value: type(value) in (int, float) and bound < value <= sys.float_info.max


def at_least(least: float) -> Allows:
    """Allows finite numbers from another on."""
    return lambda value: type(value) in (int, float) and least <= value <= sys.float_info.max


def instance_of(*kinds: type) -> Allows:
    """Allows objects of some types."""
    return lambda value: isinstance(value, kinds)


def is_function(value: Any) -> bool:
    """Allows what can be called, without classes."""
    return callable(value) and not isinstance(value, type)


def is_text(value: Any) -> bool:
    """Allows strings that are not empty."""
    return isinstance(value, str) and bool(value)


FLAG = Option("must be True or False.", instance_of(bool))


def _plain(value: Any) -> Any:
    """A value with numbers of other types as Python's own."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, Integral):
        return int(value)
    return _float(value) if isinstance(value, Real) else value


def _float(value: Real) -> Any:
    try:
        return float(value)
    except OverflowError:  # a fraction that no float holds
        return value


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:  # of an object that is not ready
        text = f"<{type(value).__name__}>"
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."
