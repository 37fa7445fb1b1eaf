"""Train GPTs of four sizes and print their tokens/s, MFU and memory, in ten minutes at most.

Without arguments all four sizes run: in the precision whose matmuls are fastest here and whose training fits into the
memory, at the batch, context and number of steps that the time allows. Each size runs in a process of its own. One that
cannot run is a row with the reason and the option that would run it; one that fails is a row with its error.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

import psutil
import torch
from rich.console import Console

from scripts.bench_parts import device_report
from scripts.bench_parts.arguments import make_parser
from scripts.bench_parts.checks import check
from scripts.bench_parts.process import SIGNALS_TO_END
from scripts.bench_parts.report import show, write
from scripts.bench_parts.row import Row
from scripts.bench_parts.sizes import counted, measured

AT_THE_END_SEC = 5.0  # for the table and the picture


class Interrupted(BaseException):
    """Ctrl-C or a request to end has arrived.

    Args:
        number: The signal's number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main() -> None:
    """Run what the command line asks for."""
    started = psutil.Process().create_time()  # imports take seconds
    parser = make_parser(__doc__)
    arguments = parser.parse_args()
    check(parser, arguments)
    arguments.end_at = started + 60 * arguments.minutes - AT_THE_END_SEC
    console = Console(width=None if sys.stdout.isatty() else 160)  # a file or a pipe has no width
    output = Path(arguments.output)
    output.mkdir(parents=True, exist_ok=True)
    for number in SIGNALS_TO_END:
        signal.signal(number, interrupt)
    rows: list[Row] = []
    status = 0
    try:
        if arguments.device_report:
            machine = device_report.Machine(torch.device(arguments.accelerator))
            device_report.write(output, device_report.report(machine))
        for rows in counted(arguments) if arguments.flops_only else measured(arguments, console):
            write(rows, output)
        show(rows, arguments, output, console)
    except Interrupted as interrupted:  # later ones are ignored
        status = 128 + interrupted.number
        name = signal.Signals(interrupted.number).name
        console.print(f"ended by {name}{'; the rows so far:' if rows else ' before the first row'}", highlight=False)
        if rows:
            write(rows, output)  # once more, in case that it came while they were written
            show(rows, arguments, output, console)
    sys.exit(status or int(any(row.error for row in rows)))


def interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """Raise `Interrupted`; a second signal does not disturb the end of the first."""
    for one in SIGNALS_TO_END:
        signal.signal(one, signal.SIG_IGN)
    raise Interrupted(number)


if __name__ == "__main__":
    main()
