"""A table of FLOPs by module, in which similar modules share a row."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text


def group_of(name: str) -> str:
    """The name that similar modules share: ``*`` for each number, as in ``blocks.*.attention``."""
    return ".".join("*" if re.fullmatch(r"\d+", part) else part for part in name.split("."))


def grouped_by_module(per_module: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Sum the FLOPs of similar modules: those whose names differ only in numbers, as in ``blocks.*.attention``.

    Args:
        per_module: FLOPs by the module's name.

    Returns:
        By the name with ``*`` for each number: the number of modules and their FLOPs, in the order in which they ran.
    """
    modules: Counter[str] = Counter()
    flops: Counter[str] = Counter()
    for name, own in per_module.items():
        modules[group_of(name)] += 1
        flops[group_of(name)] += own
    return {group: (modules[group], flops[group]) for group in flops}


def module_table(per_module: Mapping[str, int], forward: int) -> Table:
    """A table of the modules with their shares of the forward FLOPs; similar modules share a row.

    Args:
        per_module: FLOPs by the module's name.
        forward: FLOPs of all modules together.
    """
    table = Table(title=f"{forward:.4e} model FLOPs in the forward pass", title_justify="left")
    table.add_column("module")
    for column in ("modules", "FLOPs", "share"):
        table.add_column(column, justify="right")
    for name, (modules, flops) in grouped_by_module(per_module).items():
        table.add_row(Text(name or "(itself)"), str(modules), f"{flops:.4e}", f"{flops / forward:.2%}")
    return table


def as_text(table: Table, lines: Iterable[str], *, width: int = 100) -> str:
    """A table and the lines below it as plain text.

    Args:
        table: The table.
        lines: The lines.
        width: The width of the text in characters.
    """
    text = io.StringIO()
    console = Console(file=text, width=width)
    console.print(table, *map(Text, lines), sep="\n")
    return text.getvalue().rstrip()
