"""Compare our search for the largest batch with those of Lightning and accelerate, within one real budget on the CPU.

    python scripts/comparisons/finders.py                    # two models, three rounds
    python scripts/comparisons/finders.py --models gpt --rounds 1 --budget 128

Every search runs in its own process, on the same model, with the same limit on the private memory of the model and
everything that training allocates (RLIMIT_DATA). All processes fix glibc's thresholds, keep none of MKL's buffers (what
earlier trials left to MKL costs the next nothing, and a fresh process some MiB of its budget), and have trained once
before. The finders take turns in each round, and the figures are medians. "ours" and "binsearch" look for the exact
largest size: without a margin, at full resolution, and without Lightning's maximum of 8192. "as it comes" marks a
finder with its own defaults; the trials that ours then needs are told. "trials" in the table is how often training was
started, warm-up steps included.

The limit is found without any finder: a Trainer trains two steps at one size within the budget, each time in a fresh
process. It tries sizes further and further from the one that ours found, until one trains and another does not, and
then bisects between them. The sizes next to the limit are trained in several processes. Processes differ by a MiB or
two, so a size counts as exact if it is within one of the limits that they show, or within 1 %. Exits with 1 if ours
is not exact. Works only on Linux with glibc.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from scripts.comparisons.finder_parts.limit import Limit, find_limit
from scripts.comparisons.finder_parts.row import Request, Row, Training
from scripts.comparisons.finder_parts.subjects import SUBJECTS
from scripts.comparisons.finder_parts.table import claims, finders_table

FINDERS = (
    "ours",
    "ours, as it comes",
    "binsearch",
    "binsearch, as it comes",
    "power, as it comes",
    "accelerate, as it comes",
    "accelerate from 1024",
)
_MIB = 2**20


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    options = parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else 150)
    command = shlex.join(["python", *sys.argv])
    print(f"{command}\n{platform.platform()}, Python {platform.python_version()}, {torch.get_num_threads()} threads")
    print(", ".join(f"{name} {_version(name)}" for name in ("torch", "lightning", "accelerate", "mfu-callback")))
    finders = [name for name in FINDERS if name in ("ours", *options.finders)]
    models, all_exact = {}, True
    for model in options.models:
        budget_bytes = (options.budget or SUBJECTS[model].budget_mib) * _MIB
        rows = search_in_turns(model, budget_bytes, finders, options.rounds)
        limit = limit_of(model, budget_bytes, rows, options.rounds)
        console.print(finders_table(model, budget_bytes, rows, limit))
        said = claims(rows, limit)
        print("\n".join(said.lines()), flush=True)
        all_exact = all_exact and said.is_exact
        models[model] = {"budget_bytes": budget_bytes, "limit": asdict(limit), "claims": asdict(said)}
        models[model]["rows"] = [asdict(row) for row in rows]
    if options.output is not None:
        options.output.write_text(json.dumps({"command": command, "models": models}, indent=1))
    return 0 if all_exact else 1


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=SUBJECTS, default=["gpt", "mlp"], help="default: gpt mlp")
    parser.add_argument("--finders", nargs="+", choices=FINDERS, default=FINDERS, help="others to run (default: all)")
    parser.add_argument("--rounds", type=_at_least_one, default=3, help="searches of each finder (default: 3)")
    parser.add_argument("--budget", type=_at_least_one, metavar="MIB", help="default: 256 to 1024, by model")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write all results as JSON")
    return parser.parse_args(arguments)


def search_in_turns(model: str, budget_bytes: int, finders: list[str], rounds: int) -> list[Row]:
    """Run every finder once per round; every other round runs them in reverse order."""
    rows = []
    for turn in range(rounds):
        for finder in finders[:: -1 if turn % 2 else 1]:
            print(f"{model}, round {turn + 1} of {rounds}: {finder}", file=sys.stderr)
            rows.append(search(Request(model=model, budget_bytes=budget_bytes, finder=finder)))
    return rows


def search(request: Request) -> Row:
    """Run one search; if its process dies, the row has the error."""
    fields, why = in_own_process(request)
    return Row(finder=request.finder, model=request.model, error=why) if fields is None else Row(**fields)


def limit_of(model: str, budget_bytes: int, rows: list[Row], rounds: int) -> Limit:
    """Find the limit without any finder, starting from the size that ours found."""
    found = next((row.found for row in rows if row.finder == "ours" and row.found), 1)
    return find_limit(trains_in_own_process(model, budget_bytes), start=found, repeats=max(2, rounds))


def trains_in_own_process(model: str, budget_bytes: int) -> Callable[[int], bool]:
    """A function that returns whether a size trains; False if its process dies."""

    def trains(size: int) -> bool:
        fields, why = in_own_process(Request(model=model, budget_bytes=budget_bytes, size=size))
        training = Training(fits=False, why=why) if fields is None else Training(**fields)
        print(f"{model}, {size} in a fresh process: {training.why[:100]}", file=sys.stderr)
        return training.fits

    return trains


def in_own_process(request: Request) -> tuple[dict[str, Any] | None, str]:
    """Returns the worker's answer, or None and how its process ended."""
    worker = Path(__file__).with_name("finder_parts") / "worker.py"
    command = [sys.executable, str(worker), json.dumps(asdict(request))]
    environment = {**os.environ, "MKL_DISABLE_FAST_MM": "1"}  # MKL reads it when it is loaded
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no error output"])[-1]
        return None, f"its process ended with {done.returncode}: {last}"
    return json.loads(done.stdout.splitlines()[-1]), ""


def _at_least_one(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: give 1 or more")
    return int(text)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "is missing"


if __name__ == "__main__":
    sys.exit(main())
