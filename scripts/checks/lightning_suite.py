"""Runs Lightning's own tests twice, without and with MFUCallback in every Trainer, and compares them test by test.

    python scripts/checks/lightning_suite.py --checkout ../pytorch-lightning
    python scripts/checks/lightning_suite.py --checkout ../pytorch-lightning --only tests/tests_pytorch/loops --jobs 4

The checkout is of the version of Lightning that is installed; what its tests need (pytest, pytest-timeout and others)
is installed too, and so is this package: its entry point in `lightning.pytorch.callbacks_factory` puts the callback
into every Trainer where MFU_CALLBACK=1. A test that fails, or ends its process, only with the callback is printed, with
the last line of its error. Some tests count or name what a Trainer has, and the callback is more of it: those kinds are
allowed (`KINDS`). Exits with 1 if any other fails only with the callback.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from rich.console import Console
from rich.table import Column, Table

ROOT = Path(__file__).parents[2]
TESTS = "tests/tests_pytorch"
# pytest's exit statuses that leave a result for every test: all passed, some failed, none were collected.
_COMPLETE = (0, 1, 5)


class Kind(NamedTuple):
    """A kind of test that must fail where a Trainer has one more callback.

    Attributes:
        name: What such a test does.
        pattern: What the line that failed, or its error, contains then.
        reason: Why it is right that it fails.
    """

    name: str
    pattern: re.Pattern[str]
    reason: str


KINDS = (
    Kind(
        "names callbacks",
        re.compile(r"\bcallbacks\b(?!_factory)|MFUCallback"),
        "it expects the very list of the Trainer's callbacks, which has one more",
    ),
    Kind(
        "counts calls",
        re.compile(r"\bassert_called|\bassert_has_calls|\bcall_count\b|\bmock_calls\b|\bExpected calls?:"),
        "it expects the very calls of a method or a hook, and the callback calls some too",
    ),
    Kind(
        "names what is logged",
        re.compile(r"\b(throughput|waterfall|memory|time)/\w"),
        "it expects the very names that are logged, and the callback logs its own",
    ),
)


class Outcome(NamedTuple):
    """How a test has ended.

    Attributes:
        status: "passed", "failed" or "skipped".
        failure: The lines of its traceback that failed, and the error; empty unless it failed.
    """

    status: str
    failure: str = ""


class Comparison(NamedTuple):
    """The tests that fail in one run and not in the other.

    Attributes:
        only_with: Their names and outcomes with the callback.
        only_without: Their names and outcomes without it.
    """

    only_with: Mapping[str, Outcome]
    only_without: Mapping[str, Outcome]


_NO_RESULT = Outcome("failed", "there is no result: its process has ended before")


def compared(with_us: Mapping[str, Outcome], without: Mapping[str, Outcome]) -> Comparison:
    """Compare two runs by the names of the tests; a test without a result has failed.

    Args:
        with_us: The outcomes with the callback.
        without: The outcomes without it.
    """
    return Comparison(_fails_only(with_us, without), _fails_only(without, with_us))


def _fails_only(here: Mapping[str, Outcome], there: Mapping[str, Outcome]) -> dict[str, Outcome]:
    outcomes = {name: here.get(name, _NO_RESULT) for name in sorted({*here, *there})}
    return {
        name: outcome
        for name, outcome in outcomes.items()
        if outcome.status == "failed" and there.get(name, _NO_RESULT).status != "failed"
    }


def kind_of(outcome: Outcome) -> Kind | None:
    """The kind of tests to which one that failed belongs; None if it should not have failed."""
    return next((kind for kind in KINDS if kind.pattern.search(outcome.failure)), None)


def outcomes_in(report: Path) -> dict[str, Outcome]:
    """The outcomes of the tests in a JUnit report, by class and name; none if pytest wrote none."""
    if not report.exists():
        return {}
    found: dict[str, Outcome] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        outcome = _outcome_of(case)
        if name not in found or found[name].status != "failed":  # of a test whose teardown fails there are two cases
            found[name] = outcome
    return found


def _outcome_of(case: ElementTree.Element) -> Outcome:
    for failed in (*case.findall("failure"), *case.findall("error")):
        lines = (failed.text or "").splitlines()
        # pytest marks the line that failed and those of the error.
        marked = [line[1:].strip() for line in lines if line.startswith((">", "E"))]
        return Outcome("failed", "\n".join(marked) or failed.get("message", ""))
    return Outcome("passed" if case.find("skipped") is None else "skipped")


def files_of_tests(checkout: Path, only: Sequence[str]) -> list[Path]:
    """The files of the tests to run.

    Args:
        checkout: The checkout.
        only: Files and folders in it.

    Raises:
        SystemExit: If one of them is not there or has no tests.
    """
    files: list[Path] = []
    for place in only:
        path = checkout / place
        found = sorted(path.rglob("test_*.py")) if path.is_dir() else [path] if path.is_file() else []
        if not found:
            sys.exit(f"--only {place}: no tests are there in {checkout}. Give files or folders of the checkout.")
        files += found
    return files


def run_tests(checkout: Path, files: Sequence[Path], *, with_us: bool, jobs: int) -> dict[str, Outcome]:
    """Run the tests of a checkout.

    Args:
        checkout: The checkout.
        files: The files of the tests.
        with_us: Whether the callback is in every Trainer.
        jobs: Number of processes, each of which runs a part of the files.

    Returns:
        The outcomes by the name of the test.
    """
    environment = {name: value for name, value in os.environ.items() if name != "MFU_CALLBACK"}
    environment |= {"MFU_CALLBACK": "1"} if with_us else {}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    parts = [part for part in (files[first::jobs] for first in range(jobs)) if part]
    with TemporaryDirectory() as directory, ThreadPoolExecutor(jobs) as pool:
        reports = [Path(directory, f"{number}.xml") for number in range(len(parts))]
        outcomes: dict[str, Outcome] = {}
        for found in pool.map(lambda part, report: _run_part(checkout, part, report, environment), parts, reports):
            outcomes |= found
    return outcomes


def _run_part(checkout: Path, files: Sequence[Path], report: Path, environment: dict[str, str]) -> dict[str, Outcome]:
    # Lightning's tests import each other as `tests_pytorch`.
    options = ["-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    command = [sys.executable, "-m", "pytest", *options, *map(str, files)]
    done = subprocess.run(command, cwd=checkout / "tests", env=environment, capture_output=True, text=True)
    if done.returncode not in _COMPLETE:
        print(f"pytest has ended with {done.returncode}:\n{(done.stdout + done.stderr)[-2000:]}", file=sys.stderr)
    return outcomes_in(report)


def tables(with_us: Mapping[str, Outcome], without: Mapping[str, Outcome], comparison: Comparison) -> list[Table]:
    """The numbers of tests, and those that fail in one run alone."""
    counts = Table("", "passed", "failed", "skipped", title="Lightning's tests")
    for name, outcomes in (("without the callback", without), ("with it", with_us)):
        numbers = Counter(outcome.status for outcome in outcomes.values())
        counts.add_row(name, *(f"{numbers[status]:,}" for status in ("passed", "failed", "skipped")))
    test = Column("test", no_wrap=True)
    only_with = Table(test, "error", "allowed", title=f"Fail only with it: {len(comparison.only_with)}")
    for name, outcome in comparison.only_with.items():
        kind = kind_of(outcome)
        only_with.add_row(name, _last_line(outcome), "no" if kind is None else f"{kind.name}: {kind.reason}")
    only_without = Table(test.copy(), "error", title=f"Fail only without it: {len(comparison.only_without)}")
    for name, outcome in comparison.only_without.items():
        only_without.add_row(name, _last_line(outcome))
    return [table for table in (counts, only_with, only_without) if table.rows]


def _last_line(outcome: Outcome) -> str:
    errors = [
        line for line in outcome.failure.splitlines() if re.match(r"[\w.]*(Error|Exception|Exit|Warning)\b", line)
    ]
    return (errors or outcome.failure.splitlines() or [""])[-1][:200]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tests twice and print what differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, required=True, help="a git checkout of Lightning")
    parser.add_argument(
        "--only", nargs="+", default=[TESTS], metavar="PATH", help=f"in the checkout (default: {TESTS})"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes at once (default: 1)")
    options = parser.parse_args(arguments)
    if options.jobs < 1:
        parser.error(f"--jobs {options.jobs}: give a number of processes, at least 1.")
    checkout = options.checkout.resolve()
    files = files_of_tests(checkout, options.only)
    without = run_tests(checkout, files, with_us=False, jobs=options.jobs)
    with_us = run_tests(checkout, files, with_us=True, jobs=options.jobs)
    if not any(outcome.status == "passed" for outcome in without.values()):
        sys.exit(
            "No test has passed without the callback, so there is nothing to compare. Is the checkout of the version of"
            " Lightning that is installed, and is installed what its tests need?"
        )
    comparison = compared(with_us, without)
    console = Console(width=None if sys.stdout.isatty() else 160)
    for table in tables(with_us, without, comparison):
        console.print(table)
    return int(any(kind_of(outcome) is None for outcome in comparison.only_with.values()))


if __name__ == "__main__":
    sys.exit(main())
