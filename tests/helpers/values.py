"""Values of all kinds that someone may give to an option, and what is right among them, said once more."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import nn


def function(*arguments: Any) -> int:
    """A function that takes anything."""
    return 1


_NUMBERS = st.one_of(st.integers(), st.integers(-2, 3), st.floats(), st.sampled_from([2.5, 2.0, math.nan, math.inf]))
_LARGE = st.sampled_from([10**400, 2**63, 2**63 - 1, -math.inf, Fraction(10**400), Fraction(1, 2), Decimal(2)])
_NUMPY = st.sampled_from([np.int64(3), np.int32(0), np.uint8(7), np.float32(2.5), np.float64(math.nan), np.bool_(True)])
_ODD = st.sampled_from(
    [2j, b"thop", [], [3], (), {}, {"a": 1}, set(), range(3), object(), np.ones(3), np.array(["full"])]
)
_OF_TORCH = st.sampled_from([torch.tensor(2), torch.ones(3), torch.bfloat16, torch.device("cpu"), nn.Linear(2, 2)])
_CALLABLE = st.sampled_from([function, len, int, Fraction])
_WORDS = st.one_of(st.text(max_size=5), st.sampled_from(["x", "yes", "True", "2", "thop", "full", "measured", "cpu"]))
ANYTHING = st.one_of(
    st.none(), st.booleans(), _NUMBERS, _LARGE, _NUMPY, _ODD, _OF_TORCH, _CALLABLE, _WORDS, st.text(min_size=300)
)

Is = Callable[[Any], bool]


def either(*ones: Is) -> Is:
    """What one of some rules allows."""
    return lambda value: any(one(value) for one in ones)


def word(*words: Any) -> Is:
    """One of some words."""
    return lambda value: any(type(value) is type(one) and value == one for one in words)


def is_none(value: Any) -> bool:
    """None."""
    return value is None


def is_flag(value: Any) -> bool:
    """True or False, of Python or numpy."""
    return isinstance(value, bool | np.bool_)


def whole(least: int, most: int = 2**63 - 1) -> Is:
    """A whole number in a range, of Python or numpy."""
    return lambda value: isinstance(value, int | np.integer) and not is_flag(value) and least <= int(value) <= most


def number(is_in_range: Callable[[float], bool]) -> Is:
    """A real number that a float holds, in a range."""

    def is_allowed(value: Any) -> bool:
        if is_flag(value) or not isinstance(value, int | float | Fraction | np.integer | np.floating):
            return False
        try:
            return math.isfinite(float(value)) and is_in_range(float(value))
        except OverflowError:
            return False

    return is_allowed


def is_function(value: Any) -> bool:
    """What is called with a batch."""
    return hasattr(value, "__call__") and not isinstance(value, type)  # noqa: B004 - what `callable` says, said otherwise
