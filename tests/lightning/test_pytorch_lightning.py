"""Runs under `pytorch_lightning`, whose classes are others than those of `lightning.pytorch`, and the two mixed."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.helpers import package_run
from tests.helpers.event_files import LAYOUT_TAG, cards, layouts, records, tag_counts

SCRIPT = Path(package_run.__file__)
PACKAGES = ("lightning.pytorch", "pytorch_lightning")
FORWARD = 2 * 64 * 64 * 4096  # of the head, for one sample of 64 tokens


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Makes a run, once, and gives its directory, its outcome and what it printed."""

    @cache
    def made(package, how):
        directory = tmp_path_factory.mktemp(f"{package}-{how}")
        command = [sys.executable, "-W", "ignore", str(SCRIPT), package, str(directory), how]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        outcome = directory / "outcome.json"
        assert outcome.exists(), done.stderr
        return directory / "run", json.loads(outcome.read_text()), done.stderr

    return made


@pytest.mark.parametrize("package", PACKAGES)
def test_either_package_is_enough(run, package):
    directory, outcome, _ = run(package, "alone")
    assert outcome["imported"] == [package]
    assert outcome["is_own"] == [True, True]
    assert outcome["steps"] == 5
    assert outcome["forward"] == outcome["size"] * FORWARD
    assert tag_counts(directory)["throughput/mfu"] == 5


@pytest.mark.parametrize("package", PACKAGES)
def test_the_finder_searches_within_a_real_limit(run, package):
    _, outcome, _ = run(package, "alone")
    size = outcome["size"]
    assert 8 < size < 100
    assert outcome["loader"] == size
    fitting, unfit = ({tried for tried, fits in outcome["trials"] if fits is wanted} for wanted in (True, False))
    assert max(fitting) == size
    assert min(unfit) == size + 1


def test_everything_that_is_logged_under_lightning_is_logged_under_pytorch_lightning(run):
    (one, its), (other, others) = (run(package, "alone")[:2] for package in PACKAGES)
    assert set(tag_counts(other)) == set(tag_counts(one))
    assert {"val_loss", "time/step_sec", "waterfall/mfu", LAYOUT_TAG} <= set(tag_counts(other))
    assert others["metrics"] == its["metrics"]
    assert [len(kind(other)) for kind in (layouts, cards, records)] == [1, 2, 2]
    assert [len(kind(one)) for kind in (layouts, cards, records)] == [1, 2, 2]


def test_the_record_and_the_summary_are_of_the_same_kind_and_name_the_package(run):
    summaries = [json.loads((run(package, "alone")[0] / "mfu_summary.json").read_text()) for package in PACKAGES]
    its, others = (shape_of(one) for one in summaries)
    assert others == its
    assert [list(one["run"]["versions"])[3] for one in summaries] == ["lightning", "pytorch-lightning"]
    assert records(run(PACKAGES[1], "alone")[0])[-1] == summaries[1]
    assert "| pytorch-lightning | " in cards(run(PACKAGES[1], "alone")[0])[-1]


def shape_of(summary):
    """What is the same in the summaries of all such runs: the keys, and the kind of each value."""
    figures = {name: type(value).__name__ for name, value in summary.items() if value is not None}
    run = {name: type(value).__name__ for name, value in summary["run"].items()}
    return figures.keys() - {"hints", "advice"}, run, sorted(summary["waterfall"])


def test_two_processes_train_under_pytorch_lightning(run):
    directory, outcome, _ = run(PACKAGES[1], "two-alone")
    assert outcome["imported"] == [PACKAGES[1]]
    assert outcome["steps"] == 5
    assert outcome["loader"] == outcome["size"]
    (*_, last) = records(directory)
    assert last["run"]["strategy"] == "DDPStrategy"
    assert len(last["devices"]) == 2
    assert {"time/step_sec_max", "waterfall/waiting"} <= set(tag_counts(directory))


def test_the_search_ends_its_run_from_inside_by_the_packages_own_exception(run):
    _, outcome, _ = run(PACKAGES[1], "stopped-alone")
    assert outcome["loader"] == outcome["size"] < 100
    assert outcome["steps"] == 5


def test_errors_of_the_finder_are_caught_as_the_packages_own(run):
    assert "Not even a batch of 1 fits" in run(PACKAGES[1], "wide-alone")[1]["error"]


@pytest.mark.parametrize("how", ["early-made", "early-bare"])
def test_a_callback_that_was_imported_before_pytorch_lightning_works_under_its_trainer(run, how):
    directory, outcome, _ = run(PACKAGES[1], how)
    assert outcome["imported"] == list(PACKAGES)
    assert set(outcome["is_own"]) == {how != "early-made"}
    assert outcome["steps"] == 5
    assert [len(kind(directory)) for kind in (layouts, cards, records)] == [1, 2, 2]


def test_messages_are_in_the_log_of_the_package_that_is_in_use(run):
    for package, how in ((PACKAGES[0], "alone"), (PACKAGES[1], "alone"), (PACKAGES[1], "early-made")):
        assert run(package, how)[1]["loggers"] == [f"{package}.utilities.rank_zero"]


def test_without_either_package_the_error_says_what_to_install():
    hide = "import sys; from tests.helpers.package_run import Hidden; sys.meta_path.insert(0, Hidden(*sys.argv[1:]))"
    names = [name for names in package_run.TOP_LEVEL.values() for name in names]
    command = [sys.executable, "-c", f"{hide}; from mfu_callback import MFUCallback", *names]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stderr.endswith("mfu_callback needs Lightning, which is not installed. pip install lightning\n")
