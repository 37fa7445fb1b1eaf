"""The options of the batch size finder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

Objective = Literal["memory", "throughput"]
OBJECTIVES: tuple[str, ...] = get_args(Objective)
DEFAULT_MAX_SIZE = 2**20  # the default of max_size: making a larger batch takes seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The arguments of `BatchSizeFinder`; it describes them.

    Raises:
        ValueError: If an argument is out of its range.
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
        for name in ("max_size", "max_tokens", "budget", "init_size", "multiple_of", "global_batch_size"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{name}={value!r} must be a whole number of at least 1.")
        for name in ("margin", "resolution"):
            share = getattr(self, name)
            if not 0 <= share < 1:
                raise ValueError(f"{name}={share!r} must be a share of at least 0 and below 1; 0.05 is 5 %.")
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise ValueError(f"max_seconds={self.max_seconds!r} must be above 0, or None for no limit.")
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective={self.objective!r} is not known. Use one of {OBJECTIVES}.")
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
        if self.max_size is not None and self.max_size < self.multiple_of:
            raise ValueError(
                f"max_size={self.max_size} is below multiple_of={self.multiple_of}, so no size is left to try."
                " Raise max_size, or lower multiple_of."
            )

    def largest(self, most_in_data: int | None, tokens_per_sample: int = 1) -> int:
        """The largest size to try, in samples.

        Args:
            most_in_data: The largest batch that the data can fill; None for no limit.
            tokens_per_sample: Tokens of a sample, for ``max_tokens``.
        """
        sizes = [DEFAULT_MAX_SIZE if self.max_size is None else self.max_size]
        if self.max_tokens is not None:
            sizes = [self.max_tokens // tokens_per_sample]
        return max(self.multiple_of, min([*sizes, *([] if most_in_data is None else [most_in_data])]))
