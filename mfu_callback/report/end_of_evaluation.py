"""Prints the figures at the end of validate, test and predict."""

from __future__ import annotations

from rich.console import Console

from mfu_callback.meter.evaluation import Evaluation
from mfu_callback.report.end_of_fit import lost_text
from mfu_callback.report.no_step import BATCH, why_none
from mfu_callback.report.tables import mfu_text, print_figures, rates_text, step_text


def print_evaluation(
    evaluation: Evaluation, *, warmup_steps: int, style: str = "table", console: Console | None = None
) -> None:
    """Print the figures of an evaluation.

    Args:
        evaluation: The figures.
        warmup_steps: Number of warm-up batches, which explains an evaluation without a measured one.
        style: "table", "line", or "auto": the table on a terminal and in a notebook, the line elsewhere.
        console: Where to print; the standard output by default.
    """
    console = console or Console()
    is_table = style == "table" or (style == "auto" and (console.is_terminal or console.is_jupyter))
    if evaluation.steps and is_table:
        title = f"MFU of the forward pass over {_batches(evaluation)} of {evaluation.stage}"
        print_figures(evaluation.as_dict(), title=title, console=console)
    else:
        line = line_of_evaluation(evaluation, warmup_steps=warmup_steps)
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def line_of_evaluation(evaluation: Evaluation, *, warmup_steps: int) -> str:
    """The main figures and the two largest losses, in one line.

    Args:
        evaluation: The figures.
        warmup_steps: Number of warm-up batches, which explains an evaluation without a measured one.
    """
    if evaluation.steps == 0:
        why = why_none(BATCH, evaluation.steps_by_part or {}, warmup_steps=warmup_steps)
        return f"MFUCallback measured no batch of {evaluation.stage}: {why}"
    figures = evaluation.as_dict()
    mfu = mfu_text(figures)
    parts = (
        None if mfu is None else f"forward {mfu}",
        rates_text(figures),
        step_text(figures),
        _batches(evaluation),
        lost_text(evaluation.waterfall),
    )
    return f"{evaluation.stage}: {', '.join(part for part in parts if part is not None)}"


def _batches(evaluation: Evaluation) -> str:
    return f"{evaluation.steps:,} batch{'' if evaluation.steps == 1 else 'es'}"
