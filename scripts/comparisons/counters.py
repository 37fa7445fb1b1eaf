"""Count the forward FLOPs of the same models with our counter and with others, and compare the counts.

Every count is shown as a fraction of the model's closed form, which is in counter_parts/models.py. Each pair of a
counter and a model runs in its own process: if it fails, its row shows the error. Time and memory are those of the
count alone, in fp32 on the CPU, after a plain forward pass: the seconds of the first count in the process and of a
second one, and the growth of resident memory during the first. forward-alone counts nothing: it is a forward pass.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from scripts.comparisons.counter_parts.models import SUBJECTS
from scripts.comparisons.counter_parts.tools import COUNTERS


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The result of one counter on one model; None is unknown, or not measured because of ``error``."""

    counter: str
    model: str
    flops: float | None = None
    closed_form: int | None = None
    first_sec: float | None = None
    again_sec: float | None = None
    memory_bytes: int | None = None
    error: str | None = None

    @property
    def fraction(self) -> str:
        """The count over the closed form, as text; "1" only if the count is exact."""
        if self.flops is None or self.closed_form is None:
            return "-"
        return "1" if self.flops == self.closed_form else f"{self.flops / self.closed_form:.4f}"


def main() -> None:
    """Run the comparison that the command line asks for."""
    arguments = parse_arguments()
    console = Console(width=None if sys.stdout.isatty() else 140)
    pairs = [(counter, model) for model in arguments.models for counter in arguments.counters]
    shown = track(pairs, description="counts", console=Console(stderr=True))
    rows = [measure(counter, model, arguments.timeout) for counter, model in shown]
    if arguments.output:
        Path(arguments.output).write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    print(f"Python {platform.python_version()}, {', '.join(versions(arguments.counters))}")
    console.print(fractions(rows, arguments.counters, arguments.models))
    console.print(details(rows))


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--models", nargs="+", choices=SUBJECTS, default=list(SUBJECTS), metavar="MODEL", help=", ".join(SUBJECTS))
    add("--counters", nargs="+", choices=COUNTERS, default=list(COUNTERS), metavar="TOOL", help=", ".join(COUNTERS))
    add("--timeout", type=float, default=300.0, help="seconds for one count, including the start of its process")
    add("--output", help="file for the rows, as JSON")
    return parser.parse_args()


def measure(counter: str, model: str, timeout: float) -> Row:
    """Run one pair in its own process; if a tool is missing, fails or dies, the row has the error."""
    if not COUNTERS[counter].installed:
        return Row(counter=counter, model=model, error=f"not installed: pip install {COUNTERS[counter].package}")
    command = [sys.executable, str(Path(__file__).with_name("counter_parts") / "worker.py"), counter, model]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return Row(counter=counter, model=model, error=f"not done after {timeout:g} s")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        return Row(counter=counter, model=model, error=f"{how_it_ended(done.returncode)}: {last}")
    return Row(counter=counter, model=model, **json.loads(done.stdout.splitlines()[-1]))


def how_it_ended(return_code: int) -> str:
    """Returns how a process ended, in words."""
    return f"ended by signal {-return_code}" if return_code < 0 else f"ended with status {return_code}"


def versions(counters: Sequence[str]) -> Iterator[str]:
    """Yields the installed ones of torch, transformers and the counters' packages, each with its version."""
    for package in dict.fromkeys(("torch", "transformers", *(COUNTERS[counter].package for counter in counters))):
        try:
            yield f"{package} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            continue


def fractions(rows: Sequence[Row], counters: Sequence[str], models: Sequence[str]) -> Table:
    """Returns the table of fractions, with a row for each counter and a column for each model."""
    table = Table(title="Forward FLOPs over the closed form; 1 is exact", title_justify="left")
    table.add_column("counter")
    for model in models:
        table.add_column(model, justify="right")
    of_pair = {(row.counter, row.model): row for row in rows}
    for counter in counters:
        line = [of_pair[counter, model] for model in models]
        if any(row.flops is not None or row.error for row in line):  # the plain forward counts nothing
            table.add_row(counter, *("no count" if row.error else row.fraction for row in line))
    return table


def details(rows: Sequence[Row]) -> Table:
    """Returns the table of all rows: the count, its time and memory, and the error."""
    table = Table(title="Time and memory of each count", title_justify="left")
    for head in ("model", "counter", "its unit", "FLOPs", "of closed form", "first s", "again s", "memory MiB"):
        table.add_column(head, justify="left" if head in ("model", "counter", "its unit") else "right")
    table.add_column("error", overflow="fold")
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        end = following is None or following.model != row.model
        unit = COUNTERS[row.counter].unit
        table.add_row(row.model, row.counter, unit, *numbers(row), row.error or "", end_section=end)
    return table


def numbers(row: Row) -> tuple[str, ...]:
    """Returns the row's figures as text, with a dash for None."""
    return (
        "-" if row.flops is None else f"{row.flops:.4e}",
        row.fraction,
        "-" if row.first_sec is None else f"{row.first_sec:.3f}",
        "-" if row.again_sec is None else f"{row.again_sec:.3f}",
        "-" if row.memory_bytes is None else f"{row.memory_bytes / 2**20:,.1f}",
    )


if __name__ == "__main__":
    main()
