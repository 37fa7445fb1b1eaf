"""What the terminal shows at the end of fit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mfu_callback.per_module import ModuleFigures
from mfu_callback.summary import Summary

SUMMARY_FILE = "mfu_summary.json"
_BAR_WIDTH = 30
_SMALLEST_SHARE = 0.01  # of the time, for a module to have a row


def print_summary(summary: Summary, *, warmup_steps: int, console: Console | None = None) -> None:
    """Print a run's figures and, where MFU is known, the waterfall of where the machine went.

    Args:
        summary: The run's figures.
        warmup_steps: How many steps were left out, to explain a run without any.
        console: Where to print; the standard output by default.
    """
    console = console or Console()
    if summary.steps == 0:
        console.print(
            f"MFUCallback measured no step: the first {max(warmup_steps, 1)} are warm-up. Train longer, or lower"
            " warmup_steps.",
            highlight=False,
        )
        return
    console.print(_figures(summary))
    if summary.waterfall is not None:
        console.print(_waterfall(summary.waterfall, console.encoding))
    if summary.advice is not None:
        console.print(summary.advice, highlight=False)
    if summary.modules is not None:
        console.print(_modules(summary.modules))


def write_summary(summary: Summary, directory: Path | None) -> None:
    """Write a run's figures to ``mfu_summary.json``.

    Args:
        summary: The run's figures.
        directory: Where; None writes nothing.

    Raises:
        OSError: If that is not possible.
    """
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
        text = json.dumps(summary.as_dict(), indent=2, default=str)
        (directory / SUMMARY_FILE).write_text(text + "\n", encoding="utf-8")


def _figures(summary: Summary) -> Table:
    table = Table(title=f"MFU over {summary.steps} steps", show_header=False, title_justify="left")
    for name, value in _rows(summary):
        table.add_row(name, Text(value))
    return table


def _rows(summary: Summary) -> list[tuple[str, str]]:
    rows: list[tuple[str, str | None]] = [
        ("tokens/sec", _number(summary.tokens_per_sec, ",.1f")),
        ("real tokens/sec", _number(summary.real_tokens_per_sec, ",.1f")),
        ("samples/sec", _number(summary.samples_per_sec, ",.2f")),
        ("step time (median)", _number(summary.step_time_sec, ".4g", " s")),
        ("fastest, slowest device", _range(summary.step_time_sec_min, summary.step_time_sec_max)),
        ("phases of a step", _parts(summary.phases_sec)),
        ("MFU", _number(summary.mfu, ".4g")),
        ("MFU of the achievable", _number(summary.mfu_achievable, ".4g")),
        ("HFU", _number(summary.hfu, ".4g")),
        ("forward FLOPs of a batch", None if summary.flops is None else f"{summary.flops.forward:.4e}"),
        ("conventions", summary.conventions),
        ("not counted", None if summary.flops is None else ", ".join(summary.flops.uncounted) or None),
        ("peak", None if summary.peak is None else str(summary.peak)),
        ("", None if summary.peak is None else f"{summary.peak.name}; {summary.peak.source}"),
        *_achievable(summary),
        ("goodput", _number(summary.goodput, ".1%", " of the wall time was measured training")),
        ("the rest of it", _parts({k: v for k, v in (summary.wall_time_sec or {}).items() if k != "training"})),
    ]
    return [(name, value) for name, value in rows if value is not None]


def _achievable(summary: Summary) -> list[tuple[str, str]]:
    peak = summary.achievable
    if peak is None or peak is summary.peak:
        return []
    return [("achievable peak", str(peak)), ("", peak.source)]


def _waterfall(waterfall: dict[str, float], encoding: str) -> Table:
    table = Table(title="Where the machine went", show_header=False, title_justify="left")
    block = "█" if encoding.startswith("utf") else "#"
    for part, share in waterfall.items():
        bar = block * round(_BAR_WIDTH * min(max(share, 0), 1))
        table.add_row(part, f"{share:7.2%}", bar)
    return table


def _modules(modules: Sequence[ModuleFigures]) -> Table:
    table = Table(title="Modules, with what is inside them; one batch", title_justify="left")
    for column in ("module", "FLOPs", "forward", "backward", "share", "MFU"):
        table.add_column(column, justify="left" if column == "module" else "right")
    inside: list[str] = []  # names of the rows that the next one is inside of
    for one in modules:
        if one.share < _SMALLEST_SHARE:
            continue
        while inside and not one.name.startswith(f"{inside[-1]}."):
            inside.pop()
        name = one.name.removeprefix(f"{inside[-1]}." if inside else "") or "(all)"
        count = f" (x {one.modules})" if one.modules > 1 else ""
        figures = (_number(one.flops, ".3e"), f"{one.forward_sec:.3g} s", f"{one.backward_sec:.3g} s")
        table.add_row(Text("  " * len(inside) + name + count), *figures, f"{one.share:.1%}", _number(one.mfu, ".4f"))
        inside.extend([one.name] if one.name else [])
    return table


def _range(low: float | None, high: float | None) -> str | None:
    return None if low is None or high is None else f"{low:.4g} s, {high:.4g} s"


def _parts(seconds: Mapping[str, float] | None) -> str | None:
    parts = ", ".join(f"{part} {value:.3g} s" for part, value in (seconds or {}).items() if value > 0)
    return parts or None


def _number(value: float | None, form: str, unit: str = "") -> str | None:
    return None if value is None else f"{value:{form}}{unit}"
