"""Train GPTs of four sizes and print their tokens/s, MFU and memory, in ten minutes at most.

Without arguments all four sizes run: in the precision whose matmuls are fastest here and whose training fits into the
memory, at the batch, context and number of steps that the time allows. Each size runs in a process of its own. One that
cannot run is a row with the reason and the option that would run it; one that fails is a row with its error.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import NoReturn

import psutil
import torch
from rich.console import Console

from gpt import GPT, get_config
from mfu_callback import count_flops
from scripts.bench_parts.arguments import check, make_parser
from scripts.bench_parts.needs import parameters_of
from scripts.bench_parts.plan import share_of
from scripts.bench_parts.plot import draw
from scripts.bench_parts.process import SIGNALS_TO_END
from scripts.bench_parts.progress import Bar, Expected
from scripts.bench_parts.row import Row, losses_of, notes_of, rate_text, table_of
from scripts.bench_parts.run import choice_of, expected_sec, request_of, run_size, survey

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
    console = Console(width=None if sys.stdout.isatty() else 140)  # a file or a pipe has no width
    output = Path(arguments.output)
    output.mkdir(parents=True, exist_ok=True)
    for number in SIGNALS_TO_END:
        signal.signal(number, interrupt)
    rows: list[Row] = []
    status = 0
    try:
        for row in counted(arguments) if arguments.flops_only else measure(arguments, console):
            rows.append(row)
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


def write(rows: list[Row], output: Path) -> None:
    """Write the rows to bench.json."""
    (output / "bench.json").write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


def show(rows: list[Row], arguments: argparse.Namespace, output: Path, console: Console) -> None:
    """Print the table and where the files are."""
    console.print(table_of(rows, title_of(rows, arguments)))
    for note in (*losses_of(rows), *notes_of(rows)):
        console.print(note, highlight=False, soft_wrap=True)
    if arguments.flops_only:
        print(f"rows in {output / 'bench.json'}")
        return
    draw(rows, output / "bench.png")
    print(f"rows in {output / 'bench.json'}, picture in {output / 'bench.png'}; open the curves with:")
    print(f"{tensorboard_command()} --logdir {output / 'tensorboard'}")


def counted(arguments: argparse.Namespace) -> Iterator[Row]:
    """Yields a row for each size, with the forward FLOPs of one batch."""
    return (count(size, arguments) for size in arguments.sizes)


def count(size: str, arguments: argparse.Namespace) -> Row:
    """Returns a row with the forward FLOPs of one batch, counted on the meta device, which needs no memory."""
    with torch.device("meta"):
        model = GPT(get_config(size))
        tokens = torch.zeros(arguments.batch_size, arguments.context_length, dtype=torch.long)
    flops = count_flops(model, tokens)
    return Row(
        size=size,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        batch_size=arguments.batch_size,
        context_length=arguments.context_length,
        forward_flops_thop=flops.thop,
        forward_flops=flops.forward,
    )


def measure(arguments: argparse.Namespace, console: Console) -> Iterator[Row]:
    """Run one size after the other, each in its own process, and show the progress."""
    machine = survey(arguments)
    choices = {size: choice_of(size, arguments, machine) for size in arguments.sizes}
    first = next((choice.precision for choice in choices.values() if choice.precision), "no size fits")
    console.print(f"{machine.text}: {first}", highlight=False)
    expected = Expected({size: expected_sec(size, choices[size], arguments, machine) for size in arguments.sizes})
    said = f"{arguments.minutes:g} minute{'' if arguments.minutes == 1 else 's'} at most"
    sizes = f"{len(choices)} size{'' if len(choices) == 1 else 's'}"
    console.print(f"about {minutes_text(expected.whole)} for {sizes}, {said}", highlight=False)
    runnable = sum(choice.precision is not None for choice in choices.values())
    with Bar(expected, console) as bar:
        for size, choice in choices.items():
            if choice.precision is None:
                row = Row(size=size, parameters=parameters_of(size), reason=choice.reason)
            else:
                bar.begin(size)
                end_at = time.time() + share_of(arguments.end_at - time.time(), runnable)
                request = request_of(size, choice.precision, arguments, machine, end_at)
                row = run_size(request, bar.listen)
                row = replace(row, reason=row.reason or choice.reason, parameters=parameters_of(size))
                bar.end()
                runnable -= 1
            console.print(line_of(row), highlight=False, soft_wrap=True)
            yield row


def minutes_text(seconds: float) -> str:
    """Returns seconds as minutes, or as seconds below two minutes."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def line_of(row: Row) -> str:
    """Returns a row as one line, to print while the other sizes still run."""
    if row.mfu is None:
        return f"{row.size}: {row.error or row.reason}"
    ran = f"{row.precision}, {row.batch_size} x {row.context_length}"
    figures = f"{rate_text(row.tokens_per_sec)} tokens/s, {row.step_time_sec:.3f} s a step, MFU {row.mfu:.3f}"
    return f"{row.size}: {figures} ({ran}, {row.steps} step{'' if row.steps == 1 else 's'})"


def title_of(rows: list[Row], arguments: argparse.Namespace) -> str:
    """Returns the title of the table."""
    if arguments.flops_only:
        return f"Forward FLOPs of a batch of {arguments.batch_size} x {arguments.context_length} tokens"
    device = next((row.device for row in rows if row.device), arguments.accelerator)
    return f"{device}, {arguments.devices} device{'' if arguments.devices == 1 else 's'}"


def tensorboard_command() -> str:
    """Returns the command that starts TensorBoard: the one on the PATH, or else the one beside this Python."""
    beside = Path(sys.executable).with_name("tensorboard")
    if shutil.which("tensorboard") or not beside.exists():
        return "tensorboard"
    return str(beside.relative_to(Path.cwd()) if beside.is_relative_to(Path.cwd()) else beside)


if __name__ == "__main__":
    main()
