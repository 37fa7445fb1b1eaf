"""scripts/checks/versions.py, without making an environment."""

import io
import sys
from itertools import product

import pytest
from rich.console import Console

from scripts.checks.version_parts.rows import (
    FOLDERS,
    LIGHTNINGS,
    NEWEST,
    PYTHONS,
    TORCHES,
    Outcome,
    Row,
    all_rows,
    read_failures,
    read_tests,
    table_of,
)
from scripts.checks.version_parts.trial import Place, find_python, try_row
from scripts.checks.versions import ROOT, make_parser

OLD = Row(torch="2.4", lightning="2.4.0", python="3.12")
NO_BUILD = Row(torch="2.4", lightning=NEWEST, python="3.13")


def test_every_torch_meets_every_lightning_and_the_pythons_take_turns():
    options = make_parser().parse_args([])
    rows = all_rows(options.torch, options.lightning, options.python)
    assert [(row.torch, row.lightning) for row in rows] == list(product(TORCHES, LIGHTNINGS))
    assert [row.python for row in rows] == [*PYTHONS, *PYTHONS]
    assert [row.reason_to_leave_out for row in rows] == [None] * 8


def test_every_combination_is_a_row_where_pythons_are_named():
    options = make_parser().parse_args(["--torch", "2.8", "newest", "--python", "3.11", "3.13"])
    rows = all_rows(options.torch, options.lightning, options.python)
    assert (len(rows), len(set(rows))) == (8, 8)


def test_the_fast_tests_are_in_the_checkout():
    assert [path for path in FOLDERS if not (ROOT / path).exists()] == []


def test_an_old_torch_is_tried_with_a_transformers_that_uses_it():
    assert OLD.transformers == "transformers<5"
    assert Row(torch="2.6", lightning=NEWEST, python="3.13").transformers == "transformers>=5"


def test_pip_is_asked_for_the_last_release_of_an_old_line_or_for_the_newest():
    assert OLD.requirements == ("torch==2.4.*", "lightning==2.4.0")
    assert Row(torch=NEWEST, lightning=NEWEST, python="3.13").requirements == ("torch", "lightning")


@pytest.mark.parametrize(
    ("torch", "python", "why"),
    [
        ("2.4", "3.12", None),
        ("2.4", "3.13", "torch 2.4 is not built for Python 3.13"),
        ("2.6", "3.13", None),
        (NEWEST, "3.13", None),
    ],
)
def test_a_row_without_a_build_says_so(torch, python, why):
    assert Row(torch=torch, lightning=NEWEST, python=python).reason_to_leave_out == why


@pytest.mark.parametrize(
    ("printed", "counts"),
    [
        ("....\n12 passed in 3.21s\n", {"passed": 12}),
        (
            "x\n2 failed, 10 passed, 3 skipped, 1 warning in 71.00s (0:01:11)\n",
            {"failed": 2, "passed": 10, "skipped": 3},
        ),
        ("=== 1 passed, 2 errors in 0.30s ===\n", {"passed": 1, "error": 2}),
        ("1 error in 14.15s\n", {"error": 1}),
        ("INTERNALERROR> x\n", None),
        ("", None),
    ],
)
def test_the_last_line_of_pytest_is_read(printed, counts):
    assert read_tests(printed) == counts


@pytest.mark.parametrize(
    ("tests", "fit", "is_right"),
    [
        ({"passed": 3}, "right", True),
        ({"passed": 3, "skipped": 1}, "right", True),
        ({"passed": 3, "failed": 1}, "right", False),
        ({"passed": 3, "error": 1}, "right", False),
        ({"passed": 3}, "missing tags: ['throughput/mfu']", False),
        ({"skipped": 3}, "right", False),
        (None, None, False),
    ],
)
def test_a_row_is_right_if_nothing_failed_and_something_ran(tests, fit, is_right):
    assert Outcome(row=OLD, tests=tests, fit=fit).is_right is is_right


def test_a_row_that_has_no_build_is_no_failure():
    assert Outcome(row=NO_BUILD, left_out=NO_BUILD.reason_to_leave_out).is_right


def test_the_table_says_what_ran_and_what_did_not():
    outcomes = [
        Outcome(row=OLD, torch="2.4.1", lightning="2.4.0", tests={"passed": 5, "failed": 1, "error": 2}, fit="right"),
        Outcome(row=NO_BUILD, left_out="no build"),
    ]
    text = io.StringIO()
    Console(file=text, width=120).print(table_of(outcomes))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.getvalue().splitlines() if "│" in line]
    assert rows == [
        ["2.4.1", "2.4.0", "3.12", "5", "3", "0", "right", ""],
        ["2.4", "newest", "3.13", "-", "-", "-", "-", "no build"],
    ]


def test_a_python_that_is_not_there_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    place = Place(root=ROOT, wheel=tmp_path / "x.whl", directory=tmp_path, is_kept=False)
    assert try_row(OLD, place, []).left_out == "no Python 3.12 here"


def test_the_newest_of_pyenvs_pythons_is_taken(tmp_path, monkeypatch):
    for version in ("3.12.9", "3.12.10", "3.11.7"):
        (tmp_path / "versions" / version / "bin").mkdir(parents=True)
        (tmp_path / "versions" / version / "bin" / "python").touch()
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    assert find_python("3.12") == str(tmp_path / "versions" / "3.12.10" / "bin" / "python")


def test_a_wheel_that_cannot_be_installed_is_said_with_pips_reason_and_nothing_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr("scripts.checks.version_parts.trial.NEEDED_BYTES", 0)
    monkeypatch.setattr("scripts.checks.version_parts.trial.find_python", lambda version: sys.executable)
    place = Place(root=ROOT, wheel=tmp_path / "none.whl", directory=tmp_path, is_kept=False)
    left_out = try_row(Row(torch="0.1", lightning="0.1", python="3.10"), place, []).left_out
    assert left_out == "torch 0.1 is not built for Python 3.10"
    outcome = try_row(Row(torch="99.0", lightning="0.1", python="3.11"), place, [])
    assert outcome.left_out.startswith("pip: ERROR: ")
    assert list(tmp_path.iterdir()) == []


def test_the_tests_that_failed_are_named_with_their_errors():
    printed = (
        "FAILED tests/a.py::b[1] - AssertionError: x\nERROR tests/c.py - ImportError: y\n1 failed, 1 error in 1.00s\n"
    )
    assert read_failures(printed) == ("tests/a.py::b[1] - AssertionError: x", "tests/c.py - ImportError: y")
