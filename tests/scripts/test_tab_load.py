"""scripts/checks/tab_load.py, with few points."""

import subprocess
import sys

import pytest

from scripts.checks import tab_load as board_load
from scripts.pictures import browser
from tests.helpers.event_files import event_files, tag_counts

pytestmark = pytest.mark.skipif(not browser.IS_INSTALLED, reason="needs chromium and chromium-driver")


def test_the_files_have_as_many_points_as_were_asked_for(tmp_path):
    last_step = board_load.write_runs(tmp_path, runs=3, points=100 * 3 * len(board_load._TAGS))
    assert last_step == 1000
    for run in tmp_path.iterdir():
        assert len(event_files(run)) == 1
        counts = tag_counts(run)
        assert {counts[tag] for tag in board_load._TAGS} == {100}


def test_the_script_opens_the_tab_and_prints_what_it_took():
    options = ["--runs", "3", "--points", "3000", "--rounds", "1", "--most-seconds", "600", "--most-mb", "100000"]
    done = subprocess.run([sys.executable, board_load.__file__, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The tab with 3 runs and 3,000 points" in done.stdout
    assert "private memory of the whole browser" in done.stdout


def test_a_limit_that_is_not_kept_is_an_exit_status():
    options = ["--runs", "2", "--points", "400", "--rounds", "1", "--most-mb", "1"]
    done = subprocess.run([sys.executable, board_load.__file__, *options], capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
