"""One comparison: a team's formula, the count by hand, and whether the verdict's terms add up."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from scripts.comparisons.formula_parts.hand_counts import hand_count
from scripts.comparisons.formula_parts.ours import our_count
from scripts.comparisons.formula_parts.shape import Architecture
from scripts.comparisons.formula_parts.sources import OTHER_VERSION, CheckoutError, find_checkout
from scripts.comparisons.formula_parts.teams.team import Team
from scripts.comparisons.formula_parts.terms import Right, Term
from scripts.comparisons.formula_parts.verdicts import terms_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A team's formula on an architecture.

    Attributes:
        team: Name of the team.
        theirs: FLOPs of forward and backward of one sequence, in the team's own convention; exact.
        hand: The same by hand, in ours.
        terms: What is claimed to explain the difference, each with its FLOPs.
    """

    team: str
    theirs: Fraction
    hand: int
    terms: tuple[tuple[Term, Fraction], ...]

    @property
    def unexplained(self) -> Fraction:
        """FLOPs that the terms leave over; 0 where the verdict holds."""
        return self.theirs - self.hand - sum((flops for _, flops in self.terms), Fraction())

    @property
    def in_our_convention(self) -> Fraction:
        """Their FLOPs without the terms that are conventions."""
        conventions = (flops for term, flops in self.terms if term.right is Right.CONVENTION)
        return self.theirs - sum(conventions, Fraction())

    @property
    def conventions(self) -> tuple[Term, ...]:
        """The terms that are conventions."""
        return tuple(term for term, _ in self.terms if term.right is Right.CONVENTION)

    @property
    def reasons(self) -> tuple[Term, ...]:
        """The terms that are no conventions."""
        return tuple(term for term, _ in self.terms if term.right is not Right.CONVENTION)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """An architecture with the count by hand, ours, and those of the teams that have a formula for it."""

    architecture: Architecture
    hand: int
    ours: int
    compared: tuple[Compared, ...]

    @property
    def holds(self) -> bool:
        """Whether ours is the hand count, and all differences of others are explained to the integer."""
        return self.ours == self.hand and not any(one.unexplained for one in self.compared)


def compare(architecture: Architecture, teams: Sequence[Team], checkouts: Path | None) -> Row:
    """Counts an architecture by hand, by us and by the teams' formulas.

    Raises:
        CheckoutError: If a checkout is missing, or is not what is read.
    """
    hand = hand_count(architecture)
    compared = tuple(_compared(team, architecture, hand, checkouts) for team in teams) if checkouts else ()
    return Row(
        architecture=architecture,
        hand=hand,
        ours=our_count(architecture),
        compared=tuple(one for one in compared if one is not None),
    )


def _compared(team: Team, a: Architecture, hand: int, checkouts: Path) -> Compared | None:
    if a.name not in team.supports:
        return None
    checkout = find_checkout(checkouts, team.repository)
    try:
        theirs = Fraction(team.count(checkout, a))
    except (AttributeError, KeyError, NameError, TypeError, ValueError) as error:
        raise CheckoutError(
            f"{checkout / team.file} fails on {a.name}: {type(error).__name__}: {error}. {OTHER_VERSION}"
        ) from error
    terms = tuple((term, Fraction(term.flops(a))) for term in terms_of(team, a.name))
    return Compared(team=team.name, theirs=theirs, hand=hand, terms=terms)


def commits(teams: Sequence[Team], checkouts: Path) -> Iterator[tuple[str, str]]:
    """Yields each repository with the commit that its checkout is at, where git knows it."""
    for repository in dict.fromkeys(team.repository for team in teams):
        folder = find_checkout(checkouts, repository)
        command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
        known = (folder / ".git").exists()
        done = subprocess.run(command, capture_output=True, text=True) if known else None
        yield repository, done.stdout.strip() if done and not done.returncode else "commit unknown"
