"""What the script knows of a team."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from scripts.comparisons.formula_parts.shape import Architecture


@dataclass(frozen=True, slots=True, kw_only=True)
class Team:
    """A team's formula.

    Attributes:
        name: The team, and where it has several formulas, which one.
        repository: Its repository on GitHub, owner/name.
        file: The file with the formula.
        supports: Names of the architectures that the formula is for.
        count: Runs the formula on a checkout: FLOPs of forward and backward of one sequence, in the team's own
            convention; exact.
    """

    name: str
    repository: str
    file: str
    supports: tuple[str, ...]
    count: Callable[[Path, Architecture], Fraction | int]
