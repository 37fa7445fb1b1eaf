"""The table of medians of the searches, and whether the claims about ours hold."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from rich.table import Table

from scripts.comparisons.finder_parts.limit import Limit
from scripts.comparisons.finder_parts.row import Row

_AT_MOST = 1 / 3  # of the time of Lightning's bisection
_MOST_TRIALS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """Whether the claims about ours hold.

    Attributes:
        found: The size that ours found in each round.
        limit: The limit of fresh processes, in words.
        is_exact: Whether every one of these sizes is the limit.
        over_binsearch: Median wall time of ours over that of Lightning's bisection; None if a search of either failed.
        trials: The sizes of the trials of ours with its defaults, in each round.
        left: What ours left behind, in any round.
    """

    found: list[int | None]
    limit: str
    is_exact: bool
    over_binsearch: float | None
    trials: list[list[int]]
    left: list[str]

    def lines(self) -> list[str]:
        """One line for each claim."""
        ratio = "unknown" if self.over_binsearch is None else f"{self.over_binsearch:.3f}"
        is_quick = self.over_binsearch is not None and self.over_binsearch <= _AT_MOST
        found = ", ".join("none" if size is None else f"{size:,}" for size in self.found)
        return [
            f"{_verdict(self.is_exact)}: ours is exact. Found {found}; {self.limit}.",
            f"{_verdict(is_quick)}: ours takes at most a third of binsearch's time. Ratio of medians {ratio}.",
            *(
                f"{_verdict(len(sizes) <= _MOST_TRIALS)}: ours, as it comes, needs at most {_MOST_TRIALS} trials."
                f" {len(sizes)}: {', '.join(f'{size:,}' for size in sizes)}."
                for sizes in self.trials
            ),
            f"{_verdict(not self.left)}: ours leaves nothing behind. {'; '.join(self.left) or 'Nothing'}.",
        ]


def claims(rows: list[Row], limit: Limit) -> Claims:
    """Returns whether the claims about ours hold."""
    ours = [row for row in rows if row.finder == "ours"]
    binsearch = [row for row in rows if row.finder == "binsearch"]
    found = [row.found for row in ours]
    over = None
    if binsearch and not any(row.error for row in (*ours, *binsearch)):
        over = median(_seconds(ours)) / median(_seconds(binsearch))
    return Claims(
        found=found,
        limit=limit_in_words(limit),
        is_exact=all(row.ran and limit.is_exact(row.found or 0) for row in ours),
        over_binsearch=over,
        trials=[row.trials for row in rows if row.finder == "ours, as it comes" and not row.error],
        left=_left(ours),
    )


def finders_table(model: str, budget_bytes: int, rows: list[Row], limit: Limit) -> Table:
    """Returns the table, with a row for each finder."""
    title = f"{model}, {budget_bytes / 2**20:,.0f} MiB: {limit_in_words(limit)}"
    table = Table(title=title, title_justify="left")
    for head in ("finder", "found", "of limit", "was run", "trains", "sizes", "trials", "steps", "seconds"):
        table.add_column(head, justify="left" if head == "finder" else "right")
    table.add_column("left behind", ratio=1)
    for finder in dict.fromkeys(row.finder for row in rows):
        table.add_row(finder, *_cells([row for row in rows if row.finder == finder], limit))
    return table


def limit_in_words(limit: Limit) -> str:
    """Returns the limit of fresh processes, in words."""
    if limit.always == limit.ever:
        return f"fresh processes train up to {limit.ever:,}"
    return f"fresh processes always train up to {limit.always:,}, some up to {limit.ever:,}"


def _cells(rows: list[Row], limit: Limit) -> list[str]:
    found = [row.found for row in rows if row.found is not None]
    counts = [f"{median(getattr(row, name) for row in rows):g}" for name in ("sizes", "attempts", "steps")]
    seconds = _seconds(rows)
    last = [*counts, f"{median(seconds):.2f}" if seconds else "", "; ".join(_errors(rows) + _left(rows)) or "nothing"]
    if not found:
        return ["none", "", "", "", *last]
    spread = f"{min(found):,}" if min(found) == max(found) else f"{min(found):,} to {max(found):,}"
    share = f"{median(found) / limit.ever:.1%}" if limit.ever else ""
    was_run, trains = all(row.ran for row in rows), max(found) <= limit.ever + 1
    return [spread, share, "yes" if was_run else "NO", "yes" if trains else "NO", *last]


def _seconds(rows: list[Row]) -> list[float]:
    return [row.seconds for row in rows if row.seconds is not None]


def _errors(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(f"ended by {row.error[:120]}" for row in rows if row.error))


def _left(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.left))


def _verdict(holds: bool) -> str:
    return "holds" if holds else "DOES NOT HOLD"
