"""Trains one model in each loop that can be measured, in turns, and compares the MFU of each with the Trainer's.

Each run takes a few steps of the same GPT on the same batches with the same optimizer. The rounds run the loops in
turns, every other one in reverse order, since the speed of a machine changes. Exits with 1 if the MFU of a loop is more
than 5 % off the Trainer's, or its FLOPs differ at all.
"""

from __future__ import annotations

import argparse
import logging
import platform
import shlex
import sys
import warnings

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mfu_callback.meter.summary import Summary
from mfu_callback.peaks.this_machine import device_name
from scripts.comparisons.loop_parts.loops import LOOPS

_TOLERANCE = 0.05
_OVER = "Lightning's Trainer"


def main() -> None:
    """Compare, print, and exit with 1 if a loop is off."""
    arguments = parse_arguments()
    logging.getLogger("mfu_callback").addHandler(logging.NullHandler())  # what a run says of itself is not shown
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    seen: dict[str, list[Summary]] = {name: [] for name in LOOPS}
    for turn in track(range(arguments.rounds), description="rounds", console=Console(stderr=True)):
        for name in sorted(LOOPS, reverse=bool(turn % 2)):
            seen[name].append(LOOPS[name](arguments.steps, peak=1e12, summary=None, warmup_steps=5))
    print_head()
    sys.exit(0 if print_table(seen) else 1)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="runs of each loop")
    parser.add_argument("--steps", type=int, default=30, help="steps of a run, five of them warm-up")
    return parser.parse_args()


def print_head() -> None:
    """Print the command, the machine and the versions."""
    print(shlex.join(["python", *sys.argv]))
    print(f"{device_name(torch.device('cpu'))}; {platform.platform()}, Python {platform.python_version()}")
    packages = ("torch", "lightning", "accelerate", "transformers")
    print(", ".join(f"{name} {sys.modules[name].__version__}" for name in packages))


def print_table(seen: dict[str, list[Summary]]) -> bool:
    """Print the figures of each loop and their ratio to the Trainer's; returns whether all agree.

    Args:
        seen: The summaries of each loop's runs, in the order of the rounds.
    """
    table = Table("loop", "forward FLOPs", "median MFU", "MFU over the Trainer's", "", "data", "optimizer", "other")
    mfu = {name: np.array([one.mfu for one in runs]) for name, runs in seen.items()}
    all_agree = True
    for name, runs in seen.items():
        ratio = float(np.median(mfu[name] / mfu[_OVER]))
        agrees = abs(ratio - 1) <= _TOLERANCE and runs[0].flops.forward == seen[_OVER][0].flops.forward
        all_agree = all_agree and agrees
        parts = (f"{np.median([one.waterfall[part] for one in runs]):.3f}" for part in ("data", "optimizer", "other"))
        verdict = "right" if agrees else "OFF"
        table.add_row(
            name, f"{runs[0].flops.forward:,}", f"{np.median(mfu[name]):.4f}", f"{ratio:.3f}", verdict, *parts
        )
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    return all_agree


if __name__ == "__main__":
    main()
