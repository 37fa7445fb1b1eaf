"""Numbers that stay exact in other people's formulas: a float among them is taken at its exact value.

Formulas divide by 2, multiply by 0.5 and end in TFLOPs; in floats, the last digits of 1e16 FLOPs would be lost.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

_OPERATIONS = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow")


class Exact(Fraction):
    """A rational number whose arithmetic with ints and floats is exact."""

    def __index__(self) -> int:
        """Lets ``range`` and slices take a whole number."""
        if self.denominator != 1:
            raise TypeError(f"{self} is not a whole number")
        return self.numerator


def _exactly(name: str) -> Callable[[Exact, Any], Any]:
    plain = getattr(Fraction, name)

    def operation(self: Exact, other: Any) -> Any:
        result = plain(self, Fraction(other) if isinstance(other, float) else other)
        return result if result is NotImplemented else Exact(result)

    return operation


for _operation in _OPERATIONS:
    for _name in (f"__{_operation}__", f"__r{_operation}__"):
        if _name != "__rpow__":
            setattr(Exact, _name, _exactly(_name))


def exact(value: Any) -> Any:
    """Returns a whole number as :class:`Exact`, and anything else as it is."""
    return Exact(value) if isinstance(value, int) and not isinstance(value, bool) else value


def exact_values(**values: Any) -> SimpleNamespace:
    """Returns the values as attributes, whole numbers exact."""
    return SimpleNamespace(**{name: exact(value) for name, value in values.items()})
