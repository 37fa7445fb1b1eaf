"""Predict the largest batch of the four GPT sizes on the devices of the peaks table, without these devices.

The memory of a training step is computed with fake tensors (mfu_callback.predict_memory), so no memory is allocated.
The figures for devices are estimates: they assume the operators of a CPU, and keep a reserve for the memory that a
device needs besides the step's tensors. --check compares predictions with the peaks of real steps on this machine's
CPU.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from functools import cache
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from gpt import SIZES, GPTModule
from mfu_callback.finder.prediction.memory_lines import MemoryLines
from mfu_callback.finder.prediction.predict import fake_step, largest_within, reserve_of
from mfu_callback.peaks.tables.device import Device
from mfu_callback.peaks.tables.devices import DEVICES
from scripts.plan_parts.check import CASES, check

DTYPES = {"bf16-true": torch.bfloat16, "32-true": torch.float32}
MOST = 2**16  # the largest batch to try, in sequences
GIB = 2**30


def main() -> None:
    """Print what the command line asks for."""
    arguments = parse_arguments()
    console = Console(width=None if sys.stdout.isatty() else 140)
    print(shlex.join(["python", *sys.argv]))
    if arguments.check:
        rows = [check(case) for case in CASES]
        console.print(check_table(rows))
        print(f"largest error: {max(abs(row['ratio'] - 1) for row in rows):.1%}")
        return
    steps = {size: step_of(size, arguments) for size in arguments.sizes}
    console.print(parts_table(steps, arguments))
    console.print(devices_table(steps, devices_named(arguments.devices), arguments))
    print(
        "Estimates: they assume the tensors of a CPU's operators and keep a reserve of 1 GiB and 5 % of the memory for"
        " the device's context, its libraries' workspaces and its allocator's rounding."
    )


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--sizes", nargs="+", choices=SIZES, default=list(SIZES), metavar="SIZE", help=f"some of {', '.join(SIZES)}")
    add("--devices", nargs="+", default=[], metavar="WORD", help="only devices with one of these words in their name")
    add("--context-length", type=int, default=1024, help="tokens in a sequence (default: %(default)s)")
    add("--precision", choices=DTYPES, default="bf16-true", help="of Lightning's Trainer (default: %(default)s)")
    add("--check", action="store_true", help="compare predictions with real steps on this CPU instead")
    arguments = parser.parse_args()
    if not 1 <= arguments.context_length <= 1024:
        parser.error(f"--context-length {arguments.context_length}: give 1 to 1024, the models' context")
    if not devices_named(arguments.devices):
        parser.error(f"--devices {' '.join(arguments.devices)}: no device with a known memory has such a name")
    return arguments


def devices_named(words: list[str]) -> list[Device]:
    """Returns the devices with a known memory, one for each name and memory, the smallest memory first."""
    devices = {(device.name, device.memory_gb): device for device in DEVICES if device.memory_gb is not None}
    wanted = {word.lower() for word in words}
    named = [device for device in devices.values() if not wanted or wanted & set(device.name.lower().split())]
    return sorted(named, key=lambda device: (device.memory_gb, device.name))


def step_of(size: str, arguments: argparse.Namespace) -> Any:
    """Returns a function from a batch size to the memory of one GPT's training step; each size is run once."""
    with torch.device("meta"):
        module = GPTModule(size).to(DTYPES[arguments.precision])
    tokens = torch.zeros(1, arguments.context_length, dtype=torch.long)
    return cache(fake_step(module, (tokens, tokens.clone())).peak)


def parts_table(steps: dict[str, Any], arguments: argparse.Namespace) -> Table:
    """Returns the table of a step's memory at batch 1, by parts, and the memory of each further sequence."""
    title = f"Peak memory of a training step in GiB, batch 1 x {arguments.context_length}, {arguments.precision}"
    table = Table(title=title, title_justify="left")
    columns = ("size", "parameters", "gradients", "optimizer", "activations", "temporary", "total", "1 more sequence")
    for column in columns:
        table.add_column(column, justify="left" if column == "size" else "right")
    for size, peak in steps.items():
        one = peak(1)
        more = (peak(64).total - peak(32).total) / 32
        parts = (one.parameters, one.gradients, one.optimizer, one.activations, one.temporary, one.total, more)
        table.add_row(size, *(f"{part / GIB:.2f}" for part in parts))
    return table


def devices_table(steps: dict[str, Any], devices: list[Device], arguments: argparse.Namespace) -> Table:
    """Returns the table of the largest batch of every size on every device."""
    table = Table(title=f"Largest batch of {arguments.context_length} tokens, estimated", title_justify="left")
    for column in ("device", "memory", *steps):
        table.add_column(column, justify="left" if column == "device" else "right")
    for device in devices:
        memory = int((device.memory_gb or 0) * 10**9)
        table.add_row(device.name, f"{device.memory_gb:g} GB", *(batch_of(peak, memory) for peak in steps.values()))
    return table


def batch_of(peak: Any, memory_bytes: int) -> str:
    """Returns the largest batch that fits in a memory less the reserve, as text; a dash if none does."""
    usable = memory_bytes - reserve_of(memory_bytes)
    lines = MemoryLines.through(32, [peak(32).total], 64, [peak(64).total])
    size = largest_within(lambda size: peak(size).total, usable, sizes=range(1, MOST + 1), lines=lines)
    return str(size) if size else "-"


def check_table(rows: list[dict[str, Any]]) -> Table:
    """Returns the table of predictions beside measurements."""
    table = Table(title="Peak memory of a training step on this CPU", title_justify="left")
    for column in ("model", "batch", "predicted", "measured", "predicted / measured"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for row in rows:
        predicted, measured = (f"{row[name] / 2**20:,.1f} MiB" for name in ("predicted_bytes", "measured_bytes"))
        table.add_row(row["model"], str(row["batch_size"]), predicted, measured, f"{row['ratio']:.3f}")
    return table


if __name__ == "__main__":
    main()
