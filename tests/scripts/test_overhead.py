import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from scripts.comparisons import overhead
from scripts.comparisons.overhead_parts import run as overhead_run
from tests.helpers.runs import FakeNow

SCRIPT = Path(overhead.__file__)


@pytest.fixture
def now(monkeypatch):
    now = FakeNow()
    monkeypatch.setattr(overhead_run, "perf_counter", now)
    return now


def test_a_short_run_prints_a_row_for_each_callback():
    command = [sys.executable, str(SCRIPT), "--steps", "90", "--log-every", "30", "--modules", "2", "--sync", "window"]
    command += ["--turns", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    rows = {
        name: [cell.strip() for cell in line.split("│")[5:9]]
        for line in done.stdout.splitlines()
        if "│" in line
        for name in ("MFUCallback", "ThroughputMonitor", "nothing")
        if f" {name} " in line
    }
    for plain, _, logging, _ in rows.values():
        assert float(plain) > 0
        assert float(logging) > 0
    ours, monitor = rows["MFUCallback"], rows["ThroughputMonitor"]
    for kind in (0, 2):
        assert float(ours[kind + 1]) == pytest.approx(float(ours[kind]) / float(monitor[kind]), abs=0.02)
    assert rows["nothing"][1::2] == ["", ""]
    assert "whole steps, 2 turns: MFUCallback adds" in done.stdout


def test_what_is_added_to_whole_steps_is_a_ratio_of_medians():
    added = {"nothing": [0.0] * 3, "MFUCallback": [4.0, 5.0, 90.0], "ThroughputMonitor": [20.0, 1.0, 25.0]}
    text = overhead.whole_steps_text(added)
    assert text.endswith("MFUCallback adds 5.0, ThroughputMonitor 20.0, in the median; ratio 0.25")


def test_the_time_of_an_empty_callback_is_taken_off_step_by_step():
    times, nothing = overhead_run.StepTimes(31), overhead_run.StepTimes(31)
    nothing.per_step[:-1] = np.linspace(1e-6, 9e-6, 30)
    times.per_step[:-1] = nothing.per_step[:-1] + 5e-6
    assert overhead_run.split(times, nothing, log_every=10) == {
        "plain": pytest.approx(5.0),
        "logging": pytest.approx(5.0),
    }


def test_wrong_numbers_are_named():
    for options in (["--steps", "100"], ["--modules", "0"], ["--turns", "-1"]):
        done = subprocess.run([sys.executable, str(SCRIPT), *options], capture_output=True, text=True)
        assert done.returncode == 2
        assert options[0] in done.stderr


def test_each_further_value_of_an_option_is_a_run_with_the_first_of_the_others():
    arguments = SimpleNamespace(steps=[1000, 5000], modules=[10], ranks=[1, 2, 4])
    assert [tuple(setting.values()) for setting in overhead.settings(arguments)] == [
        (1000, 10, 1),
        (5000, 10, 1),
        (1000, 10, 2),
        (1000, 10, 4),
    ]


def test_a_bracket_costs_what_it_adds_to_the_method_that_it_is_around(now):
    own, sending = overhead_run.StepTimes(3), overhead_run.StepTimes(3)
    brackets = overhead_run.TimedBrackets(own, sending)

    class Owner:
        def work(self):
            now.seconds += 10.0

        def log_metrics(self):
            now.seconds += 100.0

    def wrap(function):
        def call():
            now.seconds += 0.25
            function()
            now.seconds += 0.25

        return call

    owner = Owner()
    brackets.put(owner, "work", wrap)
    brackets.put(owner, "work", wrap)
    brackets.put(owner, "log_metrics", wrap)
    for times in (own, sending):
        times.begin_step()
    owner.work()
    own.timed(owner.log_metrics)()  # as a hook sends values by itself
    for times in (own, sending):
        times.begin_step()
    assert (own.per_step[0], sending.per_step[0]) == (1.5, 100.0)
    brackets.remove()
    assert not vars(owner)


def test_steps_that_log_are_told_apart_and_the_first_ones_left_out():
    times = overhead_run.StepTimes(31)
    steps = np.arange(1, 31)
    times.per_step[:-1] = np.where(steps <= 10, 7.0, np.where(steps % 10 == 0, 3e-6, 1e-6))
    assert overhead_run.split(times, log_every=10) == {"plain": pytest.approx(1.0), "logging": pytest.approx(3.0)}
