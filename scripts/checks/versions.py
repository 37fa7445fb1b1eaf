"""Tries the built wheel with old and new versions of torch, Lightning and Python, and prints the table for the docs.

    python scripts/checks/versions.py        # every torch with every Lightning, one after another; Pythons take turns
    python scripts/checks/versions.py --torch 2.4 newest --lightning newest --python 3.10 3.13         # all of these

Each row is an environment of its own: the wheel and what it asks for, the fast tests (of a copy of tests/, so that they
find the installed package), and a real fit with MFUCallback, BatchSizeFinder and TensorBoard. It is deleted afterwards:
builds of torch for a GPU are gigabytes. What could not be tried is said in the last column. Exits with 1 if
a test or a fit failed, or a row could not be installed though there is a build.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from scripts.checks.version_parts.rows import (
    FOLDERS,
    LIGHTNINGS,
    PYTHONS,
    TORCHES,
    Outcome,
    Row,
    all_rows,
    table_of,
)
from scripts.checks.version_parts.trial import Place, try_row

ROOT = Path(__file__).parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 1 if a row is not right, else 0."""
    options = make_parser().parse_args(arguments)
    rows = all_rows(options.torch, options.lightning, options.python)
    console = Console(width=None if sys.stdout.isatty() else 150)
    with ExitStack() as stack:
        directory = options.keep or Path(stack.enter_context(TemporaryDirectory()))
        directory.mkdir(parents=True, exist_ok=True)
        wheel = options.wheel or build_wheel(directory)
        place = Place(root=ROOT, wheel=wheel.resolve(), directory=directory.resolve(), is_kept=bool(options.keep))
        with ThreadPoolExecutor(options.at_once) as pool:
            outcomes = list(pool.map(lambda row: said(console, try_row(row, place, options.tests)), rows))
    console.print(table_of(outcomes))
    return 0 if all(one.is_right for one in outcomes) else 1


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, versions in (("torch", TORCHES), ("lightning", LIGHTNINGS)):
        text = f"versions of {name.capitalize()} (default: {' '.join(versions)})"
        parser.add_argument(f"--{name}", nargs="+", default=versions, metavar="VERSION", help=text)
    text = f"versions of Python, each with all of these (default: {' '.join(PYTHONS)} take turns)"
    parser.add_argument("--python", nargs="+", choices=PYTHONS, metavar="VERSION", help=text)
    parser.add_argument(
        "--tests", nargs="*", default=FOLDERS, help="what to test (default: %(default)s); none: the fit alone"
    )
    parser.add_argument("--at-once", type=int, default=1, help="environments at a time (default: %(default)s)")
    text = "where to make and keep the environments, with a pytest.txt in each (default: each is deleted after its row)"
    parser.add_argument("--keep", type=Path, metavar="DIRECTORY", help=text)
    parser.add_argument("--wheel", type=Path, help="a wheel to try (default: it is built)")
    return parser


def build_wheel(directory: Path) -> Path:
    """Build the wheel of this checkout."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(directory), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"The wheel was not built:\n{done.stdout}{done.stderr}")
    return next(directory.glob("*.whl"))


def said(console: Console, outcome: Outcome) -> Outcome:
    """Say what came of a row, as soon as it is known, and return it."""
    row: Row = outcome.row
    tests = json.dumps(outcome.tests)
    line = f"torch {row.torch}, Lightning {row.lightning}, Python {row.python}: tests {tests}, fit {outcome.fit}"
    console.print(line if not outcome.left_out else f"{line}; {outcome.left_out}", markup=False, highlight=False)
    for failure in outcome.failures:
        console.print(f"  failed: {failure}", markup=False, highlight=False)
    return outcome


if __name__ == "__main__":
    os.environ.pop("PYTHONPATH", None)  # of the checkout: the environments have to find the wheel
    sys.exit(main())
