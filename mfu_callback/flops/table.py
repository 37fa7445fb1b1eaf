"""A table of FLOPs by module, in which similar modules share a row."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

_MOST_RULES = 6  # in one line


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


def module_table(per_module: Mapping[str, int], forward: int, rules_of: Mapping[str, Sequence[str]]) -> Table:
    """A table of the modules with their shares of the forward FLOPs; similar modules share a row.

    Args:
        per_module: FLOPs by the module's name.
        forward: FLOPs of all modules together.
        rules_of: The rules that counted each module, as in "mfu-callback: aten::bmm".
    """
    table = Table(title=f"{forward:.4e} model FLOPs in the forward pass", title_justify="left")
    table.add_column("module")
    for column in ("modules", "FLOPs", "share"):
        table.add_column(column, justify="right")
    table.add_column("counted by")
    rules = rules_by_group(rules_of)
    for name, (modules, flops) in grouped_by_module(per_module).items():
        counted_by = Text(", ".join(rules.get(name, ())))
        table.add_row(Text(name or "(itself)"), str(modules), f"{flops:.4e}", f"{flops / forward:.2%}", counted_by)
    return table


def rules_by_group(rules_of: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The rules that counted the modules of each group, in the order in which they were used.

    This package's own rules go by the operator's name alone.
    """
    groups: dict[str, dict[str, None]] = {}
    for name, rules in rules_of.items():
        groups.setdefault(group_of(name), {}).update(dict.fromkeys(map(short_rule, rules)))
    return {group: list(rules) for group, rules in groups.items()}


def short_rule(rule: str) -> str:
    """A rule's name without this package's: "aten::bmm" for "mfu-callback: aten::bmm"."""
    return rule.removeprefix("mfu-callback: ")


def shares_of_rules(per_rule: Mapping[str, int]) -> str:
    """The rules with their shares, the largest first: "thop: Linear 86.7 %, aten::bmm 13.3 %".

    Args:
        per_rule: FLOPs by the rule that counted them.
    """
    total = sum(per_rule.values())
    rows = sorted(per_rule.items(), key=lambda row: -row[1])
    shown = [f"{short_rule(rule)} {flops / total:.1%}".replace("%", " %") for rule, flops in rows[:_MOST_RULES]]
    return ", ".join(shown) + (f" and {len(rows) - _MOST_RULES} more" if len(rows) > _MOST_RULES else "")


def operator_table(per_operator: Mapping[str, Any]) -> Table:
    """A table of operators, those with the most FLOPs and bytes first.

    Args:
        per_operator: An `OperatorCount` by the operator's name.
    """
    table = Table(title="operators: FLOPs and bytes, each tensor read or written counted once", title_justify="left")
    table.add_column("operator")
    for column in ("calls", "forward", "backward", "recomputed", "bytes read", "bytes written"):
        table.add_column(column, justify="right")
    table.add_column("rule")
    rows = sorted(per_operator.items(), key=lambda row: (-row[1].forward - row[1].backward, -_bytes(row[1])))
    for name, one in rows:
        if one.rule or _bytes(one):
            figures = (one.forward, one.backward, one.recomputed, one.bytes_read, one.bytes_written)
            shown = [f"{figure:.4e}" if figure else "" for figure in figures]
            table.add_row(Text(name), str(one.calls), *shown, one.rule or "")
    return table


def _bytes(one: Any) -> int:
    return int(one.bytes_read + one.bytes_written)


def as_text(tables: Iterable[Table], lines: Iterable[str], *, width: int = 120) -> str:
    """Tables and the lines below them as plain text.

    Args:
        tables: The tables.
        lines: The lines.
        width: The width of the text in characters.
    """
    text = io.StringIO()
    console = Console(file=text, width=width)
    console.print(*tables, *map(Text, lines), sep="\n")
    return text.getvalue().rstrip()
