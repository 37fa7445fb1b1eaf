"""Times two or more steps in turns, so that a change of the machine's speed affects all of them."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Callable
from time import perf_counter

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table


def time_in_turns(steps: dict[str, Callable[[], None]], *, warmup: int, rounds: int) -> dict[str, np.ndarray]:
    """Returns the seconds of each step; every other round runs the steps in reverse order.

    Args:
        steps: The steps to run, by name.
        warmup: Number of rounds to run before timing.
        rounds: Number of rounds to time.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in track(range(warmup + rounds), description="rounds of steps", console=Console(stderr=True)):
        for name in sorted(steps, reverse=bool(turn % 2)):
            start = perf_counter()
            steps[name]()
            if turn >= warmup:
                seconds[name].append(perf_counter() - start)
    return {name: np.array(values) for name, values in seconds.items()}


def print_head() -> None:
    """Print the command and the machine."""
    print(shlex.join(["python", *sys.argv]))
    print(f"{platform.platform()}, Python {platform.python_version()}, {torch.get_num_threads()} threads")
    print(f"torch {torch.__version__}")


def print_comparison(seconds: dict[str, np.ndarray], *, over: str, tokens: int) -> None:
    """Print the command and the machine, the times of each step, and the ratio of the others over one of them.

    Args:
        seconds: The seconds that :func:`time_in_turns` returned.
        over: The step that the others are compared with.
        tokens: Tokens in a step.
    """
    print_head()
    table = Table("step", "median s", "mean s", "min s", "max s", "tokens/s")
    for name, values in seconds.items():
        median = float(np.median(values))
        row = (median, values.mean(), values.min(), values.max())
        table.add_row(name, *(f"{value:.3f}" for value in row), f"{tokens / median:,.1f}")
    Console().print(table)
    for name, values in seconds.items():
        if name != over:
            low, middle, high = np.quantile(values / seconds[over], [0.25, 0.5, 0.75])
            ratio = np.median(values) / np.median(seconds[over])
            print(f"{name} over {over}: ratio of medians {ratio:.3f}", end="; ")
            print(f"round by round: median {middle:.3f}, quartiles {low:.3f} to {high:.3f}")
