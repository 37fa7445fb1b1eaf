"""The command line of scripts/bench.py: its options, their defaults and their checks."""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch

from gpt import SIZES
from mfu_callback.finder.prediction.predict import bytes_of
from scripts.bench_parts.plan import CONTEXTS, WARMUP_STEPS
from scripts.bench_parts.replaced import VECTOR_PEAKS, vector_peak

CONTEXT_LIMIT = CONTEXTS[0]
PRECISIONS = ("auto", "bf16-true", "bf16-mixed", "16-true", "16-mixed", "32-true")


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--sizes", nargs="+", choices=SIZES, default=list(SIZES), metavar="SIZE", help=f"some of {', '.join(SIZES)}")
    add("--minutes", type=minutes, default=10.0, help="the time for all sizes together, which is kept")
    add(
        "--batch-size",
        type=batch_size,
        help="sequences in a batch, or auto for the largest that fits"
        " (default: auto on CUDA, else as the time allows; with --flops-only 2)",
        default=argparse.SUPPRESS,
    )
    add(
        "--budget",
        type=budget,
        help="memory for --batch-size auto, model included, such as 8GiB (default: free memory; on a CPU 80 %% of it)",
        default=argparse.SUPPRESS,
    )
    add(
        "--context-length",
        type=int,
        help="tokens in a sequence (default: 1024, or less as the time allows)",
        default=argparse.SUPPRESS,
    )
    add(
        "--precision", choices=PRECISIONS, default="auto", help="precision of Lightning's Trainer; auto for the fastest"
    )
    add(
        "--max-steps",
        type=int,
        help="optimizer steps, including warm-up: 2, or 1 of fewer than 5 (default: as the time allows, 30 at most)",
        default=argparse.SUPPRESS,
    )
    add("--accelerator", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where to train")
    add("--devices", type=int, default=1, help="number of devices")
    add("--strategy", default="auto", help="strategy of Lightning's Trainer, such as ddp")
    add("--compile", action="store_true", help="compile the model with torch.compile")
    add("--output", default=time.strftime("bench-results/%Y-%m-%d_%H-%M-%S"), help="directory of the results")
    add(
        "--peaks",
        choices=("dense", "vector"),
        default="dense",
        help="the peak that MFU is relative to: the dense"
        " tensor-core rate, or the vector units' rate that the replaced benchmark used",
    )
    add("--flops-only", action="store_true", help="count forward FLOPs and stop, without memory for the models")
    return parser


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


def check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Fill in the defaults that depend on the machine, and refuse options that cannot work."""
    arguments.accelerator = accelerator_of(parser, arguments.accelerator)
    fill_defaults(arguments)
    if arguments.context_length is not None and not 1 <= arguments.context_length <= CONTEXT_LIMIT:
        parser.error(f"--context-length {arguments.context_length}: give 1 to {CONTEXT_LIMIT}, the models' context")
    if arguments.devices < 1:
        parser.error(f"--devices {arguments.devices}: give at least 1")
    if arguments.max_steps is not None and arguments.max_steps <= WARMUP_STEPS:
        parser.error(f"--max-steps {arguments.max_steps}: give at least {WARMUP_STEPS + 1}; the first are warm-up")
    if arguments.accelerator == "cpu" and arguments.precision.startswith("16"):
        parser.error(
            f"--precision {arguments.precision}: fp16 is about 100 times slower than fp32 on a CPU; give"
            " auto, bf16-true or 32-true"
        )
    if arguments.flops_only and arguments.batch_size == "auto":
        parser.error("--batch-size auto: --flops-only trains nothing; give a number")
    if arguments.batch_size != "auto" and arguments.budget is not None:
        parser.error("--budget: is for --batch-size auto; give both, or neither")
    if arguments.peaks == "vector" and not arguments.flops_only and not has_vector_peak(arguments):
        names = ", ".join(" ".join(sorted(row.words, reverse=True)).upper() for row in VECTOR_PEAKS)
        parser.error(f"--peaks vector: the replaced benchmark has a peak for {names} only; give --peaks dense")
    if (Path(arguments.output) / "bench.json").exists():
        parser.error(f"--output {arguments.output}: holds the results of another run; give another directory")


def fill_defaults(arguments: argparse.Namespace) -> None:
    """Set the options that were not given; None leaves one to the plan of each size."""
    for name in ("budget", "batch_size", "context_length", "max_steps"):
        setattr(arguments, name, getattr(arguments, name, None))
    if arguments.flops_only:
        arguments.batch_size = arguments.batch_size or 2
        arguments.context_length = arguments.context_length or CONTEXT_LIMIT
    elif arguments.accelerator == "cuda" and arguments.batch_size is None:
        arguments.batch_size = "auto"


def accelerator_of(parser: argparse.ArgumentParser, name: str) -> str:
    """Returns the accelerator to use, with "auto" resolved; refuses one that this machine does not have."""
    current = torch.accelerator.current_accelerator(check_available=True)
    available = "cpu" if current is None else current.type
    if name not in ("auto", "cpu", available):
        parser.error(f"--accelerator {name}: this machine has none; give cpu or auto")
    return available if name == "auto" else name


def has_vector_peak(arguments: argparse.Namespace) -> bool:
    """Whether the replaced benchmark knows this machine's GPU."""
    dtype = torch.float32 if arguments.precision == "32-true" else torch.bfloat16
    return arguments.accelerator == "cuda" and vector_peak(torch.cuda.get_device_name(), dtype) is not None
