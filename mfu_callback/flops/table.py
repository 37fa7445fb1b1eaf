"""A count as a table: which modules the FLOPs are in."""

from __future__ import annotations

import io
import re
from collections import Counter

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mfu_callback.flops.flop_count import FlopCount


def group_of(name: str) -> str:
    """The name that like modules share: ``*`` for each number, as in ``blocks.*.attention``."""
    return ".".join("*" if re.fullmatch(r"\d+", part) else part for part in name.split("."))


def grouped_by_module(count: FlopCount) -> dict[str, tuple[int, int]]:
    """FLOPs of like modules together: the same name but for the numbers in it, as in ``blocks.*.attention``.

    Args:
        count: What was counted.

    Returns:
        By the name with ``*`` for each number: how many modules there are, and their FLOPs, in the order of the run.
    """
    modules: Counter[str] = Counter()
    flops: Counter[str] = Counter()
    for name, own in count.per_module.items():
        modules[group_of(name)] += 1
        flops[group_of(name)] += own
    return {group: (modules[group], flops[group]) for group in flops}


def module_table(count: FlopCount) -> Table:
    """A table of the modules, like ones together, with their shares of the forward FLOPs."""
    table = Table(title=f"{count.forward:.4e} model FLOPs in the forward pass", title_justify="left")
    table.add_column("module")
    for column in ("modules", "FLOPs", "share"):
        table.add_column(column, justify="right")
    for name, (modules, flops) in grouped_by_module(count).items():
        table.add_row(Text(name or "(itself)"), str(modules), f"{flops:.4e}", f"{flops / count.forward:.2%}")
    return table


def as_text(count: FlopCount, *, width: int = 100) -> str:
    """The table, the backward where it was watched, and what was left out, as plain text.

    Args:
        count: What was counted.
        width: Columns of the text.
    """
    console = Console(file=io.StringIO(), width=width)
    console.print(module_table(count))
    ratio = count.backward_ratio
    lines = [
        f"by thop's rules {count.thop:.4e}, outside of them {count.functional:.4e}; attention: {count.attention}",
        None if ratio is None else f"backward {count.backward:.4e}, {ratio:.3f} x forward",
        None if not count.recomputed else f"recomputed {count.recomputed:.4e}",
        None if count.complete else f"not counted: {', '.join(count.uncounted)}",
        *(f"note: {note}" for note in count.notes),
    ]
    for line in lines:
        if line is not None:
            console.print(Text(line))
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue().rstrip()
