"""What the terminal shows at the end of fit."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mfu_callback.summary import Summary

_BAR_WIDTH = 30


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


def _figures(summary: Summary) -> Table:
    table = Table(title=f"MFU over {summary.steps} steps", show_header=False, title_justify="left")
    for name, value in _rows(summary):
        table.add_row(name, Text(value))
    return table


def _rows(summary: Summary) -> list[tuple[str, str]]:
    rows: list[tuple[str, str | None]] = [
        ("tokens/sec", _number(summary.tokens_per_sec, ",.1f")),
        ("samples/sec", _number(summary.samples_per_sec, ",.2f")),
        ("step time (median)", _number(summary.step_time_sec, ".4g", " s")),
        ("MFU", _number(summary.mfu, ".4g")),
        ("MFU of the achievable", _number(summary.mfu_achievable, ".4g")),
        ("HFU", _number(summary.hfu, ".4g")),
        ("forward FLOPs of a batch", None if summary.flops is None else f"{summary.flops.forward:.4e}"),
        ("conventions", summary.conventions),
        ("not counted", None if summary.flops is None else ", ".join(summary.flops.uncounted) or None),
        ("peak", None if summary.peak is None else str(summary.peak)),
        ("", None if summary.peak is None else f"{summary.peak.name}; {summary.peak.source}"),
        *_achievable(summary),
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


def _number(value: float | None, form: str, unit: str = "") -> str | None:
    return None if value is None else f"{value:{form}}{unit}"
