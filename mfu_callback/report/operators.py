"""The table of the operators of a run, for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rich.table import Table
from rich.text import Text

from mfu_callback.meter.sentences import time

_MOST = 10  # at the end of fit
_MOST_IN_DETAIL = 40
_WIDTH_OF_ALL = 120  # characters


class _Column(NamedTuple):
    title: str
    text: Callable[[Mapping[str, Any]], str]
    is_extra: bool = False


def operators_table(operators: Sequence[Mapping[str, Any]], *, width: int, details: bool) -> Table:
    """The operators that take longest, with their figures of a step.

    Args:
        operators: The field of that name of `mfu_callback.meter.summary.Summary` as plain data, the longest first.
        width: Characters of a line of the console; a narrow one gets fewer columns.
        details: Whether to show more operators.
    """
    shown = operators[: _MOST_IN_DETAIL if details else _MOST]
    more = f"; the first {len(shown)} of {len(operators)}" if len(shown) < len(operators) else ""
    table = Table(title=f"Operators of a batch{more}", title_justify="left")
    table.add_column("operator", overflow="ellipsis")  # the only one that a narrow console makes narrower
    columns = [column for column in _COLUMNS if width >= _WIDTH_OF_ALL or not column.is_extra]
    for column in columns:
        table.add_column(column.title, justify="right", no_wrap=True)
    for one in shown:
        table.add_row(Text(one["name"]), *(Text(column.text(one)) for column in columns))
    return table


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _scientific(value: float | None) -> str:
    return f"{value:.3e}" if value else ""


_COLUMNS = (
    _Column("kind", lambda one: str(one["kind"]), is_extra=True),
    _Column("phase", lambda one: str(one["phase"])),
    _Column("calls", lambda one: _count(one["calls"]) if one["calls"] else ""),
    _Column("time", lambda one: time(one["sec"])),
    _Column("share", lambda one: f"{one['share']:.1%}"),
    _Column("FLOPs", lambda one: _scientific(one.get("flops")), is_extra=True),
    _Column("bytes", lambda one: _scientific(one.get("bytes")), is_extra=True),
    _Column("of its roofline", lambda one: "" if one.get("roofline") is None else f"{one['roofline']:.1%}"),
)
