"""Prints the summary at the end of fit."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console

from mfu_callback.meter.loop_settings import LOOP_SETTINGS
from mfu_callback.meter.summary import Summary
from mfu_callback.report.devices import late_text
from mfu_callback.report.no_step import STEP, why_none
from mfu_callback.report.tables import mfu_text, print_figures, rates_text, step_text


def print_summary(summary: Summary, *, warmup_steps: int, style: str = "table", console: Console | None = None) -> None:
    """Print a run's figures.

    Args:
        summary: The run's figures.
        warmup_steps: Number of warm-up steps, which explains a run without a measured step.
        style: "table", "line", or "auto": the table on a terminal and in a notebook, the line elsewhere.
        console: Where to print; the standard output by default.
    """
    console = console or Console()
    is_table = style == "table" or (style == "auto" and (console.is_terminal or console.is_jupyter))
    if summary.steps and is_table:
        print_figures(summary.as_dict(), title=f"MFU over {summary.steps:,} steps", console=console)
    else:
        console.print(line_of(summary, warmup_steps=warmup_steps), markup=False, highlight=False, soft_wrap=True)


def line_of(summary: Summary, *, warmup_steps: int) -> str:
    """The main figures, the two largest losses, the slow device and the first hint on the settings, in one line.

    Args:
        summary: The run's figures.
        warmup_steps: Number of warm-up steps, which explains a run without a measured step.
    """
    if summary.steps == 0:
        why = why_none(STEP, summary.steps_by_part or {}, warmup_steps=warmup_steps)
        loop = "trainer" if summary.circumstances is None else summary.circumstances.loop
        return f"{LOOP_SETTINGS[loop].measured_by} measured no step: {why}"
    figures = summary.as_dict()
    steps = f"{summary.steps:,} step{'' if summary.steps == 1 else 's'}"
    parts = (
        mfu_text(figures),
        rates_text(figures),
        step_text(figures),
        steps,
        lost_text(summary.waterfall),
        late_text(figures.get("pace")),
    )
    line = ", ".join(part for part in parts if part is not None)
    return ". ".join([line, *summary.hints[:1]])


def lost_text(waterfall: Mapping[str, float] | None) -> str | None:
    """The two largest losses as text; None if there is none of 1 %.

    Args:
        waterfall: The shares of the machine by part; None if MFU is unknown.
    """
    lost = {part: share for part, share in (waterfall or {}).items() if part != "mfu" and share >= 0.01}
    largest = sorted(lost, key=lambda part: -lost[part])[:2]
    return f"lost: {', '.join(f'{part} {lost[part]:.0%}' for part in largest)}" if largest else None
