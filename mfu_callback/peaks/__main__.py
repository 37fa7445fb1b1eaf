"""The command `python -m mfu_callback.peaks`: the datasheet and measured peaks of this machine's devices."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

import torch

from mfu_callback.peaks.cache import cache_directory, clear_cache
from mfu_callback.peaks.show import (
    sources,
    this_machine_json,
    this_machine_table,
    whole_json,
    whole_sources,
    whole_table,
)
from mfu_callback.peaks.survey import DTYPES, Surveyed, devices_here, survey, usual_dtypes
from mfu_callback.peaks.tables.devices import DEVICES
from mfu_callback.tools.command import Output, run_command

# Wide enough for the sources if the output is not a terminal.
_WIDTH_OF_A_FILE = 300
_WIDTH_OF_THE_TABLE = 130


def make_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="python -m mfu_callback.peaks",
        description="Look up this machine's devices in the table of datasheet peaks, measure their peaks with large"
        " matmuls, and store the best measured peaks for MFUCallback.",
    )
    parser.add_argument(
        "--device", type=_device, help="measure this device ('cpu', 'cuda:1') instead of every accelerator"
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        action="append",
        help="measure this dtype; may be repeated (default: those that models are trained in)",
    )
    parser.add_argument(
        "--time-limit", type=_seconds, default=3.0, metavar="SECONDS", help="of each measurement (default: %(default)s)"
    )
    parser.add_argument("--no-measure", action="store_true", help="measure nothing, show earlier measurements")
    parser.add_argument("--all", action="store_true", help="print the whole table of datasheet peaks instead")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--clear", action="store_true", help="delete all measured peaks and exit")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status: 1 if no peak at all could be looked up or measured."""
    options = make_parser().parse_args(arguments)
    return run_command("python -m mfu_callback.peaks", lambda: _run(options), (OSError, RuntimeError))


def _run(options: argparse.Namespace) -> int:
    console = Output(_WIDTH_OF_A_FILE)
    if options.clear:
        print(f"Measured peaks removed: {clear_cache()}, from {cache_directory()}")
        return 0
    if options.all and options.json:
        print(json.dumps(whole_json(DEVICES), indent=2))
        return 0
    if options.all:
        console.width = max(console.width, _WIDTH_OF_THE_TABLE)
        console.print(whole_table(DEVICES))
        console.print(*whole_sources(DEVICES), sep="\n", highlight=False, markup=False)
        return 0
    found = _survey_all(options)
    if options.json:
        print(json.dumps(this_machine_json(found), indent=2))
    else:
        console.print(this_machine_table(found))
        console.print(*sources(found), sep="\n", highlight=False, markup=False)
    return 0 if any(one.datasheet or one.measured for one in found) else 1


def _survey_all(options: argparse.Namespace) -> list[Surveyed]:
    time_limit_sec = None if options.no_measure else options.time_limit
    devices = [options.device] if options.device is not None else devices_here()
    return [
        survey(device, dtype, time_limit_sec=time_limit_sec)
        for device in devices
        for dtype in dict.fromkeys(options.dtype or usual_dtypes(device))
    ]


def _device(text: str) -> torch.device:
    try:
        device = torch.device(text)
        torch.ones(1, device=device).item()  # fails on the meta device, which holds no values
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0][:200]
        raise argparse.ArgumentTypeError(f"this machine has no device {text!r} for torch ({reason})") from None
    return device


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
