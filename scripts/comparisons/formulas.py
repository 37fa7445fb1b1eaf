"""Compare our count with a count by hand, and with the FLOP formulas of other teams, at published sizes.

    python scripts/comparisons/formulas.py                          # our count and the count by hand alone
    python scripts/comparisons/formulas.py --checkouts DIR          # and the formulas in the checkouts in DIR
    python scripts/comparisons/formulas.py --checkouts DIR --markdown --only "Llama 3 8B"

One sequence, forward and backward, on the meta device. Other conventions of a formula (half of the causal square) are
put aside; each difference that is left has a reason, whose FLOPs are computed from the architecture. If ours is not the
hand count, or the reasons leave a single FLOP over, the exit status is 1. The formulas are run from their own files in
DIR, which holds a clone of each repository: Megatron-Bridge, NeMo, verl, torchtitan, maxtext, litgpt.
docs/flop-formulas.md has the commits that were read.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.progress import track

from scripts.comparisons.formula_parts import table
from scripts.comparisons.formula_parts.architectures import ARCHITECTURES
from scripts.comparisons.formula_parts.comparison import Row, commits, compare
from scripts.comparisons.formula_parts.sources import CheckoutError
from scripts.comparisons.formula_parts.teams.team import Team
from scripts.comparisons.formula_parts.verdicts import TEAMS

BY_NAME: dict[str, Team] = {team.name: team for team in TEAMS}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; 1 if something is not explained."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    teams = [BY_NAME[name] for name in options.teams] if options.checkouts else []
    try:
        heading = make_heading(teams, options.checkouts)
        rows = compare_all(options.only, teams, options.checkouts)
    except CheckoutError as error:
        parser.error(str(error))
    (print_markdown if options.markdown else print_tables)(rows, [team.name for team in teams], heading)
    return 0 if all(row.holds for row in rows) else 1


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--checkouts", type=Path, metavar="DIR", help="folder with a clone of each team's repository")
    add(
        "--only",
        nargs="+",
        choices=ARCHITECTURES,
        default=list(ARCHITECTURES),
        metavar="NAME",
        help=names(ARCHITECTURES),
    )
    add("--teams", nargs="+", choices=BY_NAME, default=list(BY_NAME), metavar="TEAM", help=names(BY_NAME))
    add("--markdown", action="store_true", help="print the tables in Markdown, as in docs/flop-formulas.md")
    return parser


def names(choices: Iterable[str]) -> str:
    """Returns the choices of an option for its help."""
    return f"of these (all): {', '.join(choices)}"


def make_heading(teams: Sequence[Team], checkouts: Path | None) -> list[str]:
    """Returns the versions that are compared."""
    ours = f"torch {version('torch')}, transformers {version('transformers')}"
    return [
        ours,
        *(f"{repository} {commit}" for repository, commit in (commits(teams, checkouts) if checkouts else ())),
    ]


def compare_all(only: Sequence[str], teams: Sequence[Team], checkouts: Path | None) -> list[Row]:
    """Returns a row for each architecture."""
    shown = track(only, description="architectures", console=Console(stderr=True))
    return [compare(ARCHITECTURES[name], teams, checkouts) for name in shown]


def print_tables(rows: Sequence[Row], teams: Sequence[str], heading: Sequence[str]) -> None:
    """Print everything for the terminal."""
    console = Console(width=None if sys.stdout.isatty() else 200)
    print("\n".join(heading))
    title = (
        "FLOPs of forward and backward, the full square of attention; others: less the hand count, in our convention"
    )
    console.print(table.shown(table.counts(rows, teams), title))
    if teams:
        console.print(table.shown(table.reasons(rows), "Reasons"))
        console.print(table.shown(table.totals(rows, teams), "Architectures of each team"))
    for row in rows:
        for sentence in unexplained(row):
            print(sentence)


def print_markdown(rows: Sequence[Row], teams: Sequence[str], heading: Sequence[str]) -> None:
    """Print the same for the docs."""
    print("\n".join(f"* {line}" for line in heading), end="\n\n")
    print(table.markdown(table.counts(rows, teams), right_aligned=("tokens", "FLOPs by hand")))
    if teams:
        print("", table.markdown(table.reasons(rows)), sep="\n")
        print("", table.markdown(table.totals(rows, teams)), sep="\n")
    for row in rows:
        for sentence in unexplained(row):
            print(sentence)


def unexplained(row: Row) -> list[str]:
    """Returns a sentence for each number that is not explained."""
    name = row.architecture.name
    ours = [] if row.ours == row.hand else [f"{name}: ours is {row.ours:,}, by hand it is {row.hand:,}"]
    theirs = [
        f"{name}: {one.team}'s terms leave {table.flops(one.unexplained)} FLOPs unexplained"
        for one in row.compared
        if one.unexplained
    ]
    return ours + theirs


if __name__ == "__main__":
    sys.exit(main())
