"""What the end of a measured loop shows."""

from __future__ import annotations

from contextlib import suppress

from mfu_callback.board.run_board import Board
from mfu_callback.meter.arguments import Arguments
from mfu_callback.meter.summary import Summary
from mfu_callback.report.end_of_fit import print_summary


def show_summary(summary: Summary, arguments: Arguments, board: Board) -> None:
    """Print a summary as ``summary=`` says, and write it to the board; on the first rank alone.

    Args:
        summary: The figures of the run.
        arguments: The arguments of the run.
        board: The board of the run.
    """
    if arguments.summary is not None:
        with suppress(OSError, ValueError):  # a closed pipe or stream, a console of another encoding
            print_summary(summary, warmup_steps=arguments.warmup_steps, style=arguments.summary)
    board.end(summary)
