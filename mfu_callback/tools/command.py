"""What the commands of this package have in common: an output that may be cut short, and errors in one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from rich.console import Console

WRONG = 2  # the exit status where a command could not do what it was asked for


class Output(Console):
    """The standard output.

    Args:
        width: Its columns where no terminal tells them.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width=None if sys.stdout.isatty() else width)

    def on_broken_pipe(self) -> None:
        """Let `run_command` end the command: rich would, with a status that may mean something else."""
        raise BrokenPipeError


def run_command(program: str, run: Callable[[], int], expected: tuple[type[Exception], ...]) -> int:
    """Run a command and return its exit status.

    Args:
        program: Its name, before its errors.
        run: What it does; returns the exit status.
        expected: Errors that are told in one line.
    """
    try:
        status = run()
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except expected as error:
        print(f"{program}: {error}", file=sys.stderr)
        return WRONG
