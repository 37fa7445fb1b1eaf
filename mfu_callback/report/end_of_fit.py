"""What the terminal and the log directory get at the end of fit."""

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
    print_figures(summary.as_dict(), title=f"MFU over {summary.steps} steps", console=console)


def write_summary(record: Mapping[str, Any], directory: Path | None) -> None:
    """Write a run's record to ``mfu_summary.json``.

    Args:
        record: The run's figures and facts (`mfu_callback.board.record.record_of`).
        directory: Where; None writes nothing.

    Raises:
        OSError: If that is not possible.
    """
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
        text = json.dumps(record, indent=2, default=str)
        (directory / SUMMARY_FILE).write_text(text + "\n", encoding="utf-8")
