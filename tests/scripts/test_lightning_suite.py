"""scripts/checks/lightning_suite.py, on a small checkout of tests that are not Lightning's."""

import os
import re
from pathlib import Path

import pytest

from scripts.checks.lightning_suite import Outcome, compared, kind_of, main

ROOT = Path(__file__).parents[2]
COMMON = """
from lightning.pytorch import Trainer

def make_trainer():
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(accelerator="cpu", enable_model_summary=False, **quiet)

def test_passes():
    assert make_trainer().global_step == 0

def test_fails_in_both():
    assert make_trainer().global_step == 1

def test_counts_callbacks():
    assert len(make_trainer().callbacks) == 0
"""
BROKEN = """
import os

IS_ON = "MFU_CALLBACK" in os.environ

def test_is_broken_by_us():
    if IS_ON:
        raise ValueError("the run has changed")

def test_is_mended_by_us():
    assert IS_ON
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """Makes a checkout with a file of tests; the entry points of this package are found."""
    site = tmp_path / "site" / "mfu_callback-0.1.0.dist-info"
    site.mkdir(parents=True)
    (site / "METADATA").write_text("Metadata-Version: 2.1\nName: mfu-callback\nVersion: 0.1.0\n")
    project = (ROOT / "pyproject.toml").read_text()
    (line,) = re.findall(r'^\[project\.entry-points\."lightning\.pytorch\.callbacks_factory"\]\n(.+)$', project, re.M)
    name, at = line.split(" = ")
    (site / "entry_points.txt").write_text(f"[lightning.pytorch.callbacks_factory]\n{name} = {at.strip(chr(34))}\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site.parent), str(ROOT)]))
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")

    def make(**tests):
        folder = tmp_path / "tests" / "tests_pytorch"
        folder.mkdir(parents=True)
        (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\naddopts = "-p no:warnings"\n')
        for name, text in tests.items():
            (folder / f"test_{name}.py").write_text(text)
        return tmp_path

    return make


def rows_of(printed):
    """The cells of the tables' rows by the first one."""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if line.startswith("│")]
    return {name: cells for name, *cells in rows}


def test_a_test_that_counts_callbacks_may_fail_with_us(checkout, capsys):
    place = checkout(one=COMMON, two=BROKEN)
    assert main(["--checkout", str(place), "--only", "tests/tests_pytorch/test_one.py"]) == 0
    printed = capsys.readouterr().out
    assert rows_of(printed)["without the callback"] == ["2", "1", "0"]
    assert rows_of(printed)["with it"] == ["1", "2", "0"]
    assert "Fail only with it: 1" in printed
    assert "test_counts_callbacks" in printed
    assert "names callbacks" in printed
    assert "Fail only without it" not in printed


def test_a_test_that_only_we_break_is_the_exit_status(checkout, capsys):
    assert main(["--checkout", str(checkout(one=COMMON, two=BROKEN)), "--jobs", "2"]) == 1
    printed = capsys.readouterr().out
    assert rows_of(printed)["without the callback"] == ["3", "2", "0"]
    assert "Fail only with it: 2" in printed
    assert "ValueError: the run has" in printed
    assert "Fail only without it: 1" in printed
    assert "test_is_mended_by_us" in printed


def test_a_place_without_tests_is_named(checkout):
    with pytest.raises(SystemExit, match="--only tests/nowhere: no tests are there"):
        main(["--checkout", str(checkout(one=COMMON)), "--only", "tests/nowhere"])


def test_a_test_without_a_result_has_failed():
    passed, failed = Outcome("passed"), Outcome("failed", "E")
    comparison = compared(
        {"one": passed, "two": failed}, {"one": passed, "two": failed, "three": passed, "four": failed}
    )
    assert list(comparison.only_with) == ["three"]
    assert comparison.only_without == {}


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        ("assert trainer.callbacks == expected", "names callbacks"),
        ("save.assert_called_once_with(1)\nAssertionError: Expected 'save' to have been called once", "counts calls"),
        ("assert logged == {'loss'}\nExtra items in the left set:\n'throughput/mfu'", "names what is logged"),
        ("RuntimeError: the run has changed", None),
        ("AttributeError: 'CallbackConnector' object has no attribute 'call'", None),
    ],
)
def test_the_kind_of_a_failure(failure, kind):
    found = kind_of(Outcome("failed", failure))
    assert (found and found.name) == kind
