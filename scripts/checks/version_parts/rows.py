"""The rows of the version matrix, and what has come of one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import cycle, product

from rich.table import Table

NEWEST = "newest"
TORCHES = ("2.4", "2.6", "2.8", NEWEST)
LIGHTNINGS = ("2.4.0", NEWEST)
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
# The first torch that is built for a Python.
_FIRST_TORCH = {"3.10": (1, 11), "3.11": (2, 0), "3.12": (2, 2), "3.13": (2, 5)}
# The newest transformers uses no older torch.
_FIRST_TORCH_OF_TRANSFORMERS_5 = (2, 6)
# What lies under the tests' folders beside the fast ones needs a browser, several processes or minutes.
FOLDERS = (
    *("tests/tools", "tests/logs", "tests/meter", "tests/peaks", "tests/flops", "tests/gpt"),
    *("tests/loops/test_meter.py", "tests/loops/test_meter_unchanged.py", "tests/loops/test_odd_habits.py"),
    *("tests/lightning/test_callback.py", "tests/finder/test_predict.py"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """An environment to try.

    Args:
        torch: "2.4", "2.6", ...: its last release; or "newest".
        lightning: A version, or "newest".
        python: "3.10", ...
    """

    torch: str
    lightning: str
    python: str

    @property
    def requirements(self) -> tuple[str, ...]:
        """What pip is asked for."""
        torch = "torch" if self.torch == NEWEST else f"torch=={self.torch}.*"
        return torch, "lightning" if self.lightning == NEWEST else f"lightning=={self.lightning}"

    @property
    def transformers(self) -> str:
        """What pip is asked for beside it, for the tests of models of transformers."""
        is_old = self.torch != NEWEST and _numbers(self.torch) < _FIRST_TORCH_OF_TRANSFORMERS_5
        return "transformers<5" if is_old else "transformers>=5"

    @property
    def reason_to_leave_out(self) -> str | None:
        """Why there is no such environment; None if there may be one."""
        if self.torch == NEWEST or _numbers(self.torch) >= _FIRST_TORCH[self.python]:
            return None
        return f"torch {self.torch} is not built for Python {self.python}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What has come of a row.

    Args:
        row: The row.
        torch: The installed version; None if nothing was installed.
        lightning: Likewise.
        tests: How many tests "passed", "failed", "skipped" or had an "error"; None if they did not run.
        failures: The tests that failed, each with the first line of its error.
        fit: "right", or what was wrong with the fit; None if it did not run.
        left_out: Why something was not tried; None if all was.
    """

    row: Row
    torch: str | None = None
    lightning: str | None = None
    tests: dict[str, int] | None = None
    failures: tuple[str, ...] = ()
    fit: str | None = None
    left_out: str | None = None

    @property
    def is_right(self) -> bool:
        """Whether all ran and nothing failed; a row without a build is right, too."""
        if self.row.reason_to_leave_out:
            return True
        tests = self.tests or {}
        return tests.get("passed", 0) > 0 and not {"failed", "error"} & tests.keys() and self.fit in ("right", None)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def all_rows(torches: Iterable[str], lightnings: Iterable[str], pythons: Iterable[str] | None = None) -> list[Row]:
    """Every combination; without Pythons every one of the others, for which the Pythons that there are take turns."""
    if pythons is None:
        turns = zip(product(torches, lightnings), cycle(PYTHONS))
        return [Row(torch=t, lightning=li, python=p) for (t, li), p in turns]
    return [Row(torch=t, lightning=li, python=p) for t, li, p in product(torches, lightnings, pythons)]


def read_tests(printed: str) -> dict[str, int] | None:
    """Returns the counts in pytest's last line, "2 failed, 10 passed, 1 error in 3.00s"; None without such a line."""
    lines = re.findall(r"^[= ]*((?:\d+ [a-z]+(?:, )?)+) in [\d.]+s.*$", printed, re.MULTILINE)
    if not lines:
        return None
    counts = {what.removesuffix("s"): int(number) for number, what in re.findall(r"(\d+) ([a-z]+)", lines[-1])}
    return {what: number for what, number in counts.items() if what in ("passed", "failed", "skipped", "error")}


def read_failures(printed: str) -> tuple[str, ...]:
    """Returns the tests that failed or could not run, from pytest's short summary."""
    return tuple(re.findall(r"^(?:FAILED|ERROR) (\S.*)$", printed, re.MULTILINE))


def table_of(outcomes: Iterable[Outcome]) -> Table:
    """The table."""
    table = Table("torch", "Lightning", "Python", "passed", "failed", "skipped", "fit", "left out")
    for one in outcomes:
        tests = one.tests or {}
        failed = tests.get("failed", 0) + tests.get("error", 0)
        counts = [tests.get("passed", 0), failed, tests.get("skipped", 0)] if one.tests else ["-"] * 3
        versions = one.torch or one.row.torch, one.lightning or one.row.lightning, one.row.python
        table.add_row(*versions, *map(str, counts), one.fit or "-", one.left_out or "")
    return table
