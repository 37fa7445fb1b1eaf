"""The command line of scripts/bench.py: its options and their defaults. `checks.py` refuses what cannot work."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterable
from pathlib import Path

from gpt import SIZES
from mfu_callback.finder.prediction.predict import bytes_of
from scripts.bench_parts.against import NoRowsError, rows_in
from scripts.bench_parts.row import Row

PRECISIONS = ("auto", "bf16-true", "bf16-mixed", "16-true", "16-mixed", "32-true")
STRATEGIES = ("auto", "ddp", "fsdp2")
# https://docs.pytorch.org/docs/stable/generated/torch.compile.html; the second uses CUDA graphs.
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune")
ACCELERATORS = ("auto", "cpu", "cuda", "mps")


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    formatter = lambda prog: argparse.HelpFormatter(prog, max_help_position=32)  # noqa: E731 - an option is a line
    parser = argparse.ArgumentParser(description=description, formatter_class=formatter)
    _add_work(parser.add_argument_group("what is trained"))
    _add_way(parser.add_argument_group("how it is trained"))
    _add_time(parser.add_argument_group("how long it takes"))
    _add_results(parser.add_argument_group("what comes out"))
    return parser


def _add_work(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--sizes", nargs="+", choices=SIZES, default=list(SIZES), metavar="SIZE", help=f"{_listed(SIZES)} (all)")
    add("--batch-size", type=batch_size, metavar="N", help="sequences, or auto for the most that fit (auto on CUDA)")
    add("--budget", type=budget, metavar="BYTES", help="memory for --batch-size auto, such as 8GiB (what is free)")
    add("--context-length", type=int, metavar="N", help="tokens in a sequence (1024, or less as the time allows)")
    add("--precision", choices=PRECISIONS, default="auto", metavar="P", help=f"{_listed(PRECISIONS)} (auto)")
    add("--accumulate-grad-batches", type=at_least_one, default=1, metavar="N", help="batches in a step (1)")


def _add_way(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--accelerator", choices=ACCELERATORS, default="auto", metavar="A", help=f"{_listed(ACCELERATORS)} (auto)")
    add("--devices", type=at_least_one, default=1, metavar="N", help="number of devices (1)")
    add("--strategy", choices=STRATEGIES, default="auto", metavar="S", help=f"{_listed(STRATEGIES)} (auto)")
    modes = f"with torch.compile: {_listed(COMPILE_MODES)} (not compiled)"
    add("--compile", nargs="?", choices=COMPILE_MODES, const="default", metavar="MODE", help=modes)
    add("--checkpoint-activations", action="store_true", help="compute each block again in the backward pass")
    add("--tf32", action="store_true", help="multiply float32 matrices in TF32, on CUDA")


def _add_time(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--minutes", type=minutes, default=10.0, metavar="N", help="the time for all of it, which is kept (10)")
    add(
        "--max-steps", type=int, metavar="N", help="optimizer steps, 2 of them warm-up (30, or less as the time allows)"
    )
    add("--repeat", type=at_least_one, default=1, metavar="N", help="runs of each size, in turns (1)")


def _add_results(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    now = time.strftime("bench-results/%Y-%m-%d_%H-%M-%S")
    add("--output", default=now, metavar="DIR", help="directory of the results (a new one in bench-results/)")
    add("--against", type=earlier_rows, metavar="FILE", help="compare with an earlier bench.json")
    add("--as-notebook", action="store_true", help="run the replaced notebook's benchmarks beside ours")
    add("--device-report", action="store_true", help="write all that is needed to quote a result to device.md")
    add("--flops-only", action="store_true", help="count forward FLOPs and stop, without memory for the models")


def _listed(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}"


def at_least_one(text: str) -> int:
    """Parses a number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: give at least 1")
    return int(text)


def minutes(text: str) -> float:
    """Parses --minutes."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of minutes above 0")
    return number


def batch_size(text: str) -> int | str:
    """Parses --batch-size: a number, or "auto"."""
    if text == "auto":
        return text
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of at least 1 nor auto")
    return int(text)


def budget(text: str) -> int:
    """Parses --budget into bytes."""
    try:
        return bytes_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; give bytes, or text such as 8GiB") from error


def earlier_rows(text: str) -> tuple[str, list[Row]]:
    """Parses --against: the name of the file, and its rows."""
    try:
        return text, rows_in(Path(text))
    except NoRowsError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}; give the bench.json of an earlier run") from error
