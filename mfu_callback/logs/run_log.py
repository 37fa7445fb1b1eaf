"""What one run has logged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mfu_callback.meter.tags import TAGS

_NAMES = frozenset(tag.name for tag in TAGS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """The points of one tag, in the order of their steps; what is no finite number is left out.

    Attributes:
        steps: The Trainer's steps.
        wall_times: Seconds since 1970; empty where a log does not keep them.
        values: The values.
    """

    steps: list[int] = field(default_factory=list)
    wall_times: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLog:
    """What one run has logged.

    Attributes:
        name: Its directory, relative to the one that was asked for.
        scalars: Its points by tag (`mfu_callback.meter.tags.TAGS`).
        record: Its facts and figures (`mfu_callback.board.record`), as they were written last.
        problems: What is wrong with its files, in words.
    """

    name: str
    scalars: Mapping[str, Series] = field(default_factory=dict)
    record: Mapping[str, Any] | None = None
    problems: tuple[str, ...] = ()

    @property
    def has_values(self) -> bool:
        """Whether MFUCallback has logged anything here."""
        return bool(self.scalars) or self.record is not None


def own_tag(tag: str) -> str | None:
    """The tag of ours that a logger's tag is, whatever its prefix; None if it is none.

    Example:
        >>> own_tag("my-prefix-throughput/mfu")
        'throughput/mfu'
    """
    name = tag if tag in _NAMES else tag.rpartition("-")[2]
    return name if name in _NAMES else None
