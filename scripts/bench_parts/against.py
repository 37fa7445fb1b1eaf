"""Compares the rows of a run with an earlier run's bench.json, as ratios."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.bench_parts.row import Row
from scripts.bench_parts.table import COLUMNS, Column, Grid

# The figures whose ratios are shown, and the settings that must be equal for them to mean what they seem to.
FIGURES = ("tokens_per_sec", "mfu", "peak_memory_bytes", "peak_flops_per_sec")
SETTINGS = (
    *("device", "devices", "strategy", "precision", "batch_size", "context_length", "accumulate_grad_batches"),
    *("compile", "checkpoint_activations", "tf32", "torch"),
)
_PEAK = Column(head="peak", field="peak_flops_per_sec", form=lambda rate: f"{rate / 1e12:.4g} TFLOP/s")


class NoRowsError(ValueError):
    """A file is no bench.json; the message says why."""


def rows_in(file: Path) -> list[Row]:
    """Returns the rows of a bench.json, of this version or an earlier one.

    Raises:
        NoRowsError: If it cannot be read, or is something else.
    """
    try:
        plain = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not JSON"
        raise NoRowsError(reason) from error
    try:
        if isinstance(plain, list) and plain:
            return [Row.of(one) for one in plain]
    except (TypeError, AttributeError):
        pass
    raise NoRowsError("it has no rows of sizes")


def ratios(rows: Sequence[Row], earlier: Sequence[Row], name: str) -> Grid:
    """Returns the table of ratios: this run over the earlier one, by size.

    Args:
        rows: The rows of this run.
        earlier: Those of the earlier one.
        name: The name of its file.
    """
    before = {row.size: row for row in earlier}
    columns = {column.field: column for column in (*COLUMNS, _PEAK)}
    cells = [
        [row.size, *(_ratio(row, before[row.size], columns[figure]) for figure in FIGURES)]
        for row in rows
        if row.size in before
    ]
    heads = ["size", *(columns[figure].head for figure in FIGURES)]
    return Grid(title=f"Over {name}: ratio (now / then)", heads=heads, rows=cells, texts=frozenset({"size"}))


def differences(rows: Sequence[Row], earlier: Sequence[Row], name: str) -> list[str]:
    """Returns what stands between the two runs, a sentence each: sizes that one lacks, and settings that differ."""
    before = {row.size: row for row in earlier}
    said = [f"{row.size}: not in {name}" for row in rows if row.size not in before]
    for row in rows:
        then = before.get(row.size, row)
        if changed := [_change(field, row, then) for field in SETTINGS if _differs(field, row, then)]:
            said.append(f"{row.size} differs in more than its speed: {', '.join(changed)}")
        if _overlap(row, then):
            said.append(f"{row.size}: the ranges of tokens/s overlap, which shows no difference")
    return said


def _ratio(now: Row, then: Row, column: Column) -> str:
    one, other = getattr(now, column.field), getattr(then, column.field)
    if one is None or not other:
        return "-"
    shown = Column(head=column.head, field=column.field, form=column.form)
    return f"{one / other:.3f} ({shown.cell(now)} / {shown.cell(then)})"


def _differs(field: str, now: Row, then: Row) -> bool:
    one, other = getattr(now, field), getattr(then, field)
    is_known = then.torch is not None or (one is not None and other is not None)  # rows of before had fewer fields
    return bool(is_known and now.tokens_per_sec and then.tokens_per_sec and one != other)


def _change(field: str, now: Row, then: Row) -> str:
    return f"{field} {_plain(getattr(then, field))} -> {_plain(getattr(now, field))}"


def _plain(value: Any) -> str:
    return "none" if value is None else str(value)


def _overlap(now: Row, then: Row) -> bool:
    one, other = now.range_of("tokens_per_sec"), then.range_of("tokens_per_sec")
    return now is not then and one is not None and other is not None and one[0] <= other[1] and other[0] <= one[1]
