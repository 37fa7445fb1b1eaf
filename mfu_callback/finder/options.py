"""The options of the batch size finder."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any, Literal, get_args

Objective = Literal["memory", "throughput"]
OBJECTIVES: tuple[str, ...] = get_args(Objective)
DEFAULT_MAX_SIZE = 2**20  # the default of max_size: making a larger batch takes seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """The largest size that may be tried.

    Attributes:
        size: Samples in the batch of one process.
        why: What allows no larger one, in words.
    """

    size: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The arguments of `BatchSizeFinder`; it describes them.

    Raises:
        ValueError: If an argument is of another type or out of its range, or two contradict each other.
    """

    max_size: int | None = None
    max_tokens: int | None = None
    margin: float = 0.05
    resolution: float = 0.01
    objective: Objective = "memory"
    budget: int | None = None
    init_size: int | None = None
    multiple_of: int = 1
    max_seconds: float | None = None
    worst_case: Any = None
    global_batch_size: int | None = None
    batch_arg_name: str | None = None

    def __post_init__(self) -> None:
        self._check_values()
        self._check_units()
        self._check_sizes()

    def bound(self, tokens_per_sample: int = 1) -> Bound:
        """The largest size to try, whatever the data and the memory.

        Args:
            tokens_per_sample: Tokens of a sample, for ``max_tokens``.
        """
        if self.max_tokens is not None:
            return Bound(size=self.max_tokens // tokens_per_sample, why=f"max_tokens={self.max_tokens}")
        if self.max_size is not None:
            return Bound(size=self.max_size, why=f"max_size={self.max_size}")
        return Bound(size=DEFAULT_MAX_SIZE, why="the default of max_size")

    def _check_values(self) -> None:
        for name in ("max_size", "max_tokens", "budget", "init_size", "global_batch_size"):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), or_else="leave it out")
        check_whole("multiple_of", self.multiple_of, or_else="leave it out to try every size")
        for name in ("margin", "resolution"):
            share = getattr(self, name)
            if not (_is_number(share) and 0 <= share < 1):
                raise ValueError(f"{name}={share!r} must be a share of at least 0 and below 1. Pass 0.05 for 5 %.")
        if self.max_seconds is not None and not (_is_number(self.max_seconds) and self.max_seconds > 0):
            raise ValueError(f"max_seconds={self.max_seconds!r} must be a number above 0. Leave it out for no limit.")
        if not isinstance(self.objective, str) or self.objective not in OBJECTIVES:
            raise ValueError(f"objective={self.objective!r} is not known. Use one of {OBJECTIVES}.")
        if self.batch_arg_name is not None and not (isinstance(self.batch_arg_name, str) and self.batch_arg_name):
            raise ValueError(
                f"batch_arg_name={self.batch_arg_name!r} must be the name of an attribute, such as 'batch_size'. Leave"
                " it out for the usual names."
            )

    def _check_units(self) -> None:
        if self.max_tokens is not None and self.max_size is not None:
            raise ValueError(
                f"max_tokens={self.max_tokens} and max_size={self.max_size} both name the largest batch to try, in"
                " tokens and in samples. Leave out max_size for loaders that fill batches by tokens, else max_tokens."
            )
        if self.max_tokens is not None and self.global_batch_size is not None:
            raise ValueError(
                f"global_batch_size={self.global_batch_size} counts samples, but with max_tokens={self.max_tokens}"
                " batches have any number of them. Leave one of the two out."
            )

    def _check_sizes(self) -> None:
        """Check that no size is asked for that another argument rules out."""
        for smaller, larger in _IN_ORDER:
            low, high = getattr(self, smaller), getattr(self, larger)
            if low is not None and high is not None and high < low:
                raise ValueError(
                    f"{larger}={high} is below {smaller}={low}, so that {_NOTHING_LEFT[smaller]}. Raise {larger}, or"
                    f" lower {smaller}."
                )
        if self.init_size is not None and self.init_size % self.multiple_of:
            raise ValueError(
                f"init_size={self.init_size} is no multiple of multiple_of={self.multiple_of}, so it cannot be tried."
                f" Pass init_size={ceil(self.init_size / self.multiple_of) * self.multiple_of}, or lower multiple_of."
            )


# Arguments of which the first must not be above the second.
_IN_ORDER = (
    ("multiple_of", "max_size"),
    ("multiple_of", "max_tokens"),
    ("init_size", "max_size"),
    ("init_size", "max_tokens"),
    ("init_size", "global_batch_size"),
)
_NOTHING_LEFT = {"multiple_of": "no size is left to try", "init_size": "the first size cannot be tried"}


def check_whole(name: str, value: Any, *, least: int = 1, or_else: str) -> None:
    """Check that an argument is a whole number.

    Args:
        name: The argument.
        value: What was passed.
        least: The smallest value that it may have.
        or_else: What to do instead of passing such a number.

    Raises:
        ValueError: If it is of another type, or smaller.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}={value!r} must be a whole number of at least {least}. Pass one, or {or_else}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
