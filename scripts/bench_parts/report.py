"""What the benchmark leaves behind: the tables on the terminal and in bench.md, the rows, and the picture."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from mfu_callback.peaks.this_machine import device_name
from scripts.bench_parts import conditions, notebook_table
from scripts.bench_parts.against import differences, ratios
from scripts.bench_parts.plot import draw
from scripts.bench_parts.row import Row
from scripts.bench_parts.table import Grid, losses_of, notes_of, options_text, table_of


def write(rows: Sequence[Row], output: Path) -> None:
    """Write the rows to bench.json."""
    (output / "bench.json").write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


def show(rows: Sequence[Row], arguments: argparse.Namespace, output: Path, console: Console) -> None:
    """Print the tables and where the files are, and write the tables and the picture."""
    grids, notes = tables(rows, arguments), notes_below(rows, arguments)
    grids[0].show(console)
    for note in notes:
        console.print(note, highlight=False, soft_wrap=True)
    for grid in grids[1:]:
        grid.show(console)
    (output / "bench.md").write_text(page(grids, notes, conditions.line(device_of(rows, arguments))))
    print(f"rows in {output / 'bench.json'}, table in {output / 'bench.md'}", end="")
    if arguments.flops_only:
        print()
        return
    draw(rows, output / "bench.png")
    print(f", picture in {output / 'bench.png'}; open the curves with:")
    print(f"{tensorboard_command()} --logdir {output / 'tensorboard'}")


def tables(rows: Sequence[Row], arguments: argparse.Namespace) -> list[Grid]:
    """Returns the table of the rows, and those that options ask for."""
    grids = [table_of(rows, title_of(rows, arguments))]
    if arguments.against is not None:
        name, earlier = arguments.against
        grids.append(ratios(rows, earlier, name))
    if arguments.as_notebook:
        grids += notebook_table.tables(rows)
    return grids


def notes_below(rows: Sequence[Row], arguments: argparse.Namespace) -> list[str]:
    """Returns the sentences below the first table."""
    notes = [*losses_of(rows), *notes_of(rows)]
    books = {row.size: row.notebook or {} for row in rows}
    notes += [f"{size}, the notebook's benchmarks: {book['ended']}" for size, book in books.items() if "ended" in book]
    if arguments.against is not None:
        name, earlier = arguments.against
        notes += differences(rows, earlier, name)
    return notes


def page(grids: Sequence[Grid], notes: Sequence[str], under: str) -> str:
    """Returns bench.md: what to paste where a result is told."""
    first, *others = (grid.markdown() for grid in grids)
    said = "".join(f"* {note}\n" for note in notes)
    return "\n".join([first, *([said] if said else []), *others, f"{under}\n"])


def device_of(rows: Sequence[Row], arguments: argparse.Namespace) -> str:
    """Returns the name of the device."""
    return next((row.device for row in rows if row.device), None) or device_name(arguments.accelerator)


def title_of(rows: Sequence[Row], arguments: argparse.Namespace) -> str:
    """Returns the title of the table: the device, how many, and what was switched on."""
    if arguments.flops_only:
        return f"Forward FLOPs of a batch of {arguments.batch_size} x {arguments.context_length} tokens"
    devices = f"{arguments.devices} device{'' if arguments.devices == 1 else 's'}"
    options = next((text for row in rows if (text := options_text(row))), "")
    repeated = f"median (and range) of {arguments.repeat} runs" if arguments.repeat > 1 else ""
    return ", ".join(part for part in (device_of(rows, arguments), devices, options, repeated) if part)


def tensorboard_command() -> str:
    """Returns the command that starts TensorBoard: the one on the PATH, or else the one beside this Python."""
    beside = Path(sys.executable).with_name("tensorboard")
    if shutil.which("tensorboard") or not beside.exists():
        return "tensorboard"
    return str(beside.relative_to(Path.cwd()) if beside.is_relative_to(Path.cwd()) else beside)
