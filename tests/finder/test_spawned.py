"""Searches in the processes that a strategy spawns, as the process sees them that spawned these."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from mfu_callback import BatchSizeFinder
from mfu_callback.finder import BatchSizeResult, Trial
from mfu_callback.finder.state import state_of
from tests.helpers import spawned_run

SCRIPT = Path(spawned_run.__file__)
ROOT = SCRIPT.parents[2]
TRIAL = Trial(size=2, fits=True, seconds=0.1, peak_bytes=5, why="ran")


@pytest.fixture(scope="module")
def sights(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the main process of a run sees, and the directory of its first fit."""
    directory = tmp_path_factory.mktemp("spawned")

    @cache
    def sights(strategy: str) -> tuple[dict[str, Any], Path]:
        temporary = directory / f"{strategy}-tmp"
        temporary.mkdir()
        environment = {"OMP_NUM_THREADS": "1", "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-W", "ignore", str(SCRIPT), strategy, str(directory / strategy)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1]), directory / strategy / "run"

    return sights


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork"])
def test_the_main_process_has_the_result_of_each_fit(sights: Any, strategy: str) -> None:
    seen, _ = sights(strategy)
    assert seen["before"] is None
    assert seen["first"] == seen["first again"] == [12, [2, 8, 12]]
    assert seen["second"] == [5, [2, 5]]
    assert seen["resumed"] == [12, [2, 8, 12]]


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork"])
def test_a_search_that_failed_has_no_result_and_none_of_before(sights: Any, strategy: str) -> None:
    seen, _ = sights(strategy)
    assert "Not even a batch of" in seen["error"]
    assert seen["failed"] is None


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork"])
def test_no_file_is_left_in_the_temporary_directory(sights: Any, strategy: str) -> None:
    assert sights(strategy)[0]["left"] == []


def test_the_spawned_process_writes_the_record(sights: Any) -> None:
    _, directory = sights("ddp_spawn")
    found = json.loads((directory / "mfu_summary.json").read_text())["run"]["finder"]
    assert (found["batch_size"], [trial["size"] for trial in found["trials"]]) == (12, [2, 8, 12])


def handed_over(finder: BatchSizeFinder, size: int) -> None:
    """Leave a result as a spawned process would."""
    finder._mailbox.put(state_of(BatchSizeResult(batch_size=size, trials=(TRIAL,))))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda finder: pickle.loads(pickle.dumps(finder))])
def test_a_copy_has_the_result_that_was_not_looked_at(copied: Any) -> None:
    finder = BatchSizeFinder()
    handed_over(finder, 2)
    other = copied(finder)
    assert other.result == finder.result == BatchSizeResult(batch_size=2, trials=(TRIAL,))


def test_a_later_result_is_not_replaced_by_one_that_was_not_looked_at() -> None:
    finder = BatchSizeFinder()
    handed_over(finder, 2)
    finder.result = BatchSizeResult(batch_size=3, trials=(TRIAL,))
    assert finder.result.batch_size == 3


def test_a_result_that_was_not_looked_at_goes_into_a_checkpoint() -> None:
    finder = BatchSizeFinder()
    handed_over(finder, 2)
    assert finder.state_dict()["batch_size"] == 2
