"""Measures what MFUCallback costs in a training step, beside Lightning's ThroughputMonitor, in one run.

    python scripts/comparisons/overhead.py                         # 5,000 steps of a tiny model
    python scripts/comparisons/overhead.py --steps 1000 100000 --modules 10 10000 --ranks 1 2 4

Both callbacks run in the same steps of one Trainer, so that a change of the machine's speed affects both. The time that
each spends in its own code is added up step by step: the time of its hooks and, for ours, the time that its brackets
add to methods of the Trainer and of the optimizers. Beside each of them runs a callback with the same hooks and
brackets that does nothing in them: its time, which is the cost of the measurement itself, is taken off step by step.
The last column is our time over ThroughputMonitor's. Steps on which the Trainer logs are shown separately; with several
ranks they include the collective. The time that Lightning and its loggers need to send our values away is separate too.

Below the table stands what each callback adds to whole steps, of fits that take turns (``--turns``): with what it does
to the code around it, and with the noise of whole steps.

Each setting is one run in its own process (several processes for several ranks; the first is shown). If an option has
several values, each further value is run with the first value of the other options.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from mfu_callback.meter.ledger import SYNCS

KINDS = ("plain", "logging")  # of steps
PARTS = Path(__file__).with_name("overhead_parts")
RUN, WHOLE = PARTS / "run.py", PARTS / "whole_steps.py"


def main() -> None:
    """Run every setting and print the table."""
    arguments = parse_arguments()
    print(shlex.join(["python", *sys.argv]))
    print(f"{platform.platform()}, Python {platform.python_version()}, torch {torch.__version__}")
    table = make_table()
    for setting in settings(arguments):
        add_rows(table, setting, run(setting, arguments))
    print(f"sync={arguments.sync}, one logging step in {arguments.log_every}; medians in microseconds per step")
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    if arguments.turns:
        print(whole_steps_text(run_part(WHOLE, {"steps": arguments.steps[0], "turns": arguments.turns})))


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[5000], help="steps of a run (default: 5000)")
    parser.add_argument("--modules", type=int, nargs="+", default=[10], help="layers of the model (default: 10)")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1], help="processes that train with DDP (default: 1)")
    parser.add_argument("--sync", choices=SYNCS, default="events", help="sync of MFUCallback (default: %(default)s)")
    parser.add_argument("--log-every", type=int, default=50, help="log_every_n_steps (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=8, help="fits with each callback, for whole steps; 0 for none")
    arguments = parser.parse_args()
    if arguments.turns < 0:
        parser.error("--turns must be at least 0.")
    if min(arguments.steps) < 3 * arguments.log_every:
        parser.error("--steps must be at least 3 times --log-every, so that some logging steps are measured.")
    if min(*arguments.modules, *arguments.ranks, arguments.log_every) < 1:
        parser.error("--modules, --ranks and --log-every must be at least 1.")
    return arguments


def settings(arguments: argparse.Namespace) -> list[dict[str, int]]:
    """Returns the setting of all first values, and one for each further value with the others' first values."""
    options = {name: getattr(arguments, name) for name in ("steps", "modules", "ranks")}
    first = {name: values[0] for name, values in options.items()}
    return [first, *({**first, name: value} for name, values in options.items() for value in values[1:])]


def run(setting: dict[str, int], arguments: argparse.Namespace) -> dict[str, Any]:
    """The figures of one setting."""
    return run_part(RUN, {**setting, "log-every": arguments.log_every, "sync": arguments.sync})


def run_part(script: Path, options: dict[str, Any]) -> dict[str, Any]:
    """The figures that a script in its own process prints."""
    command = [sys.executable, str(script), *(f"--{name}={value}" for name, value in options.items())]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{shlex.join(command)} failed:\n{done.stderr}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def whole_steps_text(added: dict[str, list[float]]) -> str:
    """Returns what each callback adds to whole steps, in microseconds, and the ratio of the medians.

    Args:
        added: The microseconds that each callback adds, turn by turn.
    """
    ours, monitor = (float(np.median(added[name])) for name in ("MFUCallback", "ThroughputMonitor"))
    return (
        f"whole steps, {len(added['nothing'])} turns: MFUCallback adds {ours:.1f}, ThroughputMonitor {monitor:.1f},"
        f" in the median; ratio {ours / monitor:.2f}"
    )


def make_table() -> Table:
    """Returns the table without rows."""
    table = Table("steps", "layers", "ranks", "callback", "without logging", "ratio", "with logging", "ratio")
    table.add_column("sending its values")
    table.add_column("memory growth after step 1,000")
    return table


def add_rows(table: Table, setting: dict[str, int], figures: dict[str, Any]) -> None:
    """Add the figures of a run, one row per callback."""
    where = [f"{setting[name]:,}" for name in ("steps", "modules", "ranks")]
    ours, monitor = figures["MFUCallback"], figures["ThroughputMonitor"]
    cells = [cell for kind in KINDS for cell in (f"{ours[kind]:.1f}", f"{ours[kind] / monitor[kind]:.2f}")]
    growth = f"{figures['memory_growth_bytes'] / 2**20:.1f} MiB"
    table.add_row(*where, "MFUCallback", *cells, f"{figures['sending']['logging']:.0f}", growth)
    for name in ("ThroughputMonitor", "nothing"):
        cells = [cell for kind in KINDS for cell in (f"{figures[name][kind]:.1f}", "")]
        table.add_row("", "", "", name, *cells, end_section=name == "nothing")


if __name__ == "__main__":
    main()
