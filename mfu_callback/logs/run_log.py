"""What one run has logged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mfu_callback.meter.tags import TAGS

_NAMES = frozenset(tag.name for tag in TAGS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """The points of one tag, sorted by step; values that are not finite numbers are left out.

    Attributes:
        steps: The Trainer's steps.
        wall_times: When each point was logged, in seconds since 1970; empty if the log does not store it.
        values: The values.
    """

    steps: list[int] = field(default_factory=list)
    wall_times: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLog:
    """What one run has logged.

    Attributes:
        name: Directory of the run, relative to the directory that was searched.
        scalars: The points by tag (`mfu_callback.meter.tags.TAGS`).
        record: The facts and figures of the run (`mfu_callback.board.record`) as last written; None if there are none.
        record_time: When the record was written, in seconds since 1970; None for a run whose log was read.
        problems: What is wrong with the files, one phrase for each problem.
    """

    name: str
    scalars: Mapping[str, Series] = field(default_factory=dict)
    record: Mapping[str, Any] | None = None
    record_time: float | None = None
    problems: tuple[str, ...] = ()

    @property
    def has_values(self) -> bool:
        """Whether MFUCallback or BatchSizeFinder has logged anything here."""
        return bool(self.scalars) or self.record is not None


def own_tag(tag: str) -> str | None:
    """A logger's tag without the logger's prefix; None if it is not one of MFUCallback's tags.

    Transformers puts "train/" before the tags of training.

    Example:
        >>> own_tag("my-prefix-throughput/mfu")
        'throughput/mfu'
    """
    name = tag if tag in _NAMES else tag.rpartition("-")[2].removeprefix("train/")
    return name if name in _NAMES else None
