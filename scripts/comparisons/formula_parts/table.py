"""The comparison as tables: on the terminal, and in Markdown for the docs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from string import ascii_lowercase

from rich.table import Table

from scripts.comparisons.formula_parts.comparison import Compared, Row
from scripts.comparisons.formula_parts.terms import Term

Lines = list[list[str]]


def counts(rows: Sequence[Row], teams: Sequence[str]) -> Lines:
    """Returns the lines of the main table, its head first: a line per architecture, a column per team."""
    letters = letters_of(rows)
    head = ["architecture", "tokens", "FLOPs by hand", "ours", *teams]
    return [head, *([*_hand(row), *(_cell(row, team, letters) for team in teams)] for row in rows)]


def reasons(rows: Sequence[Row]) -> Lines:
    """Returns the lines of the table of reasons, its head first; conventions are last, without a letter."""
    head = ["", "reason", "right", "why", "in", "size"]
    conventions = {term.name: term for row in rows for one in row.compared for term in one.conventions}
    lettered = [*_lettered(rows), *((term, "") for term in conventions.values())]
    return [head, *(_reason(rows, term, letter) for term, letter in lettered)]


def totals(rows: Sequence[Row], teams: Sequence[str]) -> Lines:
    """Returns, for each team, how many architectures are equal, explained and unexplained."""
    head = ["team", "architectures", "equal", "explained to the integer", "unexplained"]
    return [head, *(_total(team, [one for row in rows for one in row.compared if one.team == team]) for team in teams)]


def letters_of(rows: Sequence[Row]) -> dict[str, str]:
    """Returns a letter for each reason's name."""
    return {term.name: letter for term, letter in _lettered(rows)}


def markdown(lines: Lines, right_aligned: Iterable[str] = ()) -> str:
    """Returns the lines as a table in Markdown."""
    head, *rest = lines
    right = set(right_aligned)
    rule = ["---:" if title in right else "---" for title in head]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, rule, *rest])


def shown(lines: Lines, title: str) -> Table:
    """Returns the lines as a table for the terminal."""
    head, *rest = lines
    table = Table(title=title, title_justify="left")
    for name in head:
        table.add_column(name, overflow="fold")
    for line in rest:
        table.add_row(*line)
    return table


def percent(part: float) -> str:
    """Returns a difference in percent, with a digit where it is small.

    Example:
        >>> percent(0.0648), percent(-0.00003)
        ('+6.5 %', '-0.003 %')
    """
    size = abs(100 * part)
    digits = 1 if size >= 0.95 else 2 if size >= 0.095 else 3 if size >= 0.00095 else 5
    return f"{100 * part:+.{digits}f} %"


def flops(count: Fraction) -> str:
    """Returns a difference in FLOPs, which is a fraction only if a formula went wrong.

    Example:
        >>> flops(Fraction(-1200)), flops(Fraction(1, 2))
        ('-1,200', '1/2')
    """
    return f"{count.numerator:+,}" if count.denominator == 1 else str(count)


def _hand(row: Row) -> list[str]:
    ours = "equal" if row.ours == row.hand else f"{row.ours:,}"
    return [row.architecture.name, str(row.architecture.length), f"{row.hand:,}", ours]


def _cell(row: Row, team: str, letters: dict[str, str]) -> str:
    for one in row.compared:
        if one.team == team:
            return _text(one, letters)
    return ""


def _text(one: Compared, letters: dict[str, str]) -> str:
    if one.unexplained:
        return f"unexplained: {flops(one.unexplained)}"
    if not one.reasons:
        return "equal"
    marks = " ".join(sorted(letters[term.name] for term in one.reasons))
    return f"{percent(float(one.in_our_convention / one.hand) - 1)} {marks}"


def _lettered(rows: Sequence[Row]) -> list[tuple[Term, str]]:
    names = {term.name: term for row in rows for one in row.compared for term in one.reasons}
    return list(zip(names.values(), ascii_lowercase, strict=False))


def _reason(rows: Sequence[Row], term: Term, letter: str) -> list[str]:
    found = [
        (one.team, float(flops / one.hand))
        for row in rows
        for one in row.compared
        for other, flops in one.terms
        if other.name == term.name
    ]
    sizes = [size for _, size in found]
    span = dict.fromkeys(percent(size) for size in (min(sizes, key=abs), max(sizes, key=abs)))
    return [letter, term.name, term.right.value, term.why, "; ".join(dict(found)), " to ".join(span)]


def _total(team: str, compared: Sequence[Compared]) -> list[str]:
    unexplained = sum(bool(one.unexplained) for one in compared)
    equal = sum(not one.unexplained and not one.reasons for one in compared)
    return [team, *map(str, (len(compared), equal, len(compared) - equal - unexplained, unexplained))]
