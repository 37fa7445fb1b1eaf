"""The common part of this package's commands: output to a pipe that may close early, and errors in one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from rich.console import Console

WRONG = 2  # the exit status of a command that failed


class Output(Console):
    """The standard output.

    Args:
        width: Number of columns if the output is not a terminal.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width=None if sys.stdout.isatty() else width)

    def on_broken_pipe(self) -> None:
        """Let `run_command` end the command. Rich would end it with a status that may have another meaning."""
        raise BrokenPipeError


def run_command(program: str, run: Callable[[], int], expected: tuple[type[Exception], ...]) -> int:
    """Run a command and return its exit status.

    Args:
        program: The command's name, printed before its errors.
        run: Does the work and returns the exit status.
        expected: Errors that are printed in one line, without a traceback.
    """
    try:
        status = run()
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader, such as `| head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except expected as error:
        print(f"{program}: {error}", file=sys.stderr)
        return WRONG
