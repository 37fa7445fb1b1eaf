"""Prints the summary at the end of fit and writes it to the log directory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from mfu_callback.logs.names import SUMMARY_FILE
from mfu_callback.meter.summary import Summary
from mfu_callback.report.tables import print_figures


def print_summary(summary: Summary, *, warmup_steps: int, console: Console | None = None) -> None:
    """Print a run's figures, and the waterfall if MFU is known.

    Args:
        summary: The run's figures.
        warmup_steps: Number of warm-up steps, which explains a run without a measured step.
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
    print_figures(summary.as_dict(), title=f"MFU over {summary.steps} steps", console=console)


def write_summary(record: Mapping[str, Any], directory: Path | None) -> None:
    """Write a run's record to ``mfu_summary.json``.

    Args:
        record: The run's figures and facts (`mfu_callback.board.record.record_of`).
        directory: The directory of the file; None writes nothing.

    Raises:
        OSError: If the file cannot be written.
    """
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
        text = json.dumps(record, indent=2, default=str)
        (directory / SUMMARY_FILE).write_text(text + "\n", encoding="utf-8")
