"""Count the forward FLOPs of the same models with our counter and with others, and compare what they say.

Every count is a fraction of the model's closed form, in counter_parts/models.py. Each pair of a counter
and a model runs in a process of its own, so that one that fails is a row that says why. Time and memory are those of
the count alone, in fp32 on the CPU, after a plain forward: seconds of the first count in the process and of another
one, and by how much the first let resident memory grow. forward-alone counts nothing: it is a forward pass.
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
    """What one counter says of one model; None is unknown, or not measured because of ``error``."""

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
        """The count over the closed form, as text; only what is exact is 1."""
        if self.flops is None or self.closed_form is None:
            return "-"
        return "1" if self.flops == self.closed_form else f"{self.flops / self.closed_form:.4f}"


def main() -> None:
    """Compare what the command line asks for."""
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
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--models", nargs="+", choices=SUBJECTS, default=list(SUBJECTS), metavar="MODEL", help=", ".join(SUBJECTS))
    add("--counters", nargs="+", choices=COUNTERS, default=list(COUNTERS), metavar="TOOL", help=", ".join(COUNTERS))
    add("--timeout", type=float, default=300.0, help="seconds that one count may take, with its process's start")
    add("--output", help="file for the rows, as JSON")
    return parser.parse_args()


def measure(counter: str, model: str, timeout: float) -> Row:
    """Run one pair in a process; a tool that is missing, fails or dies is a row as well."""
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
    """A process's end in words."""
    return f"ended by signal {-return_code}" if return_code < 0 else f"ended with status {return_code}"


def versions(counters: Sequence[str]) -> Iterator[str]:
    """Of torch, transformers and the counters' packages, those that are installed."""
    for package in dict.fromkeys(("torch", "transformers", *(COUNTERS[counter].package for counter in counters))):
        try:
            yield f"{package} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            continue


def fractions(rows: Sequence[Row], counters: Sequence[str], models: Sequence[str]) -> Table:
    """A line for each counter, a column for each model."""
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
    """A line for each row: the count, what it took, and what went wrong."""
    table = Table(title="What each count took", title_justify="left")
    for head in ("model", "counter", "its unit", "FLOPs", "of closed form", "first s", "again s", "memory MiB"):
        table.add_column(head, justify="left" if head in ("model", "counter", "its unit") else "right")
    table.add_column("error", overflow="fold")
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        end = following is None or following.model != row.model
        unit = COUNTERS[row.counter].unit
        table.add_row(row.model, row.counter, unit, *numbers(row), row.error or "", end_section=end)
    return table


def numbers(row: Row) -> tuple[str, ...]:
    """The row's figures as text; a dash where there is none."""
    return (
        "-" if row.flops is None else f"{row.flops:.4e}",
        row.fraction,
        "-" if row.first_sec is None else f"{row.first_sec:.3f}",
        "-" if row.again_sec is None else f"{row.again_sec:.3f}",
        "-" if row.memory_bytes is None else f"{row.memory_bytes / 2**20:,.1f}",
    )


if __name__ == "__main__":
    main()
