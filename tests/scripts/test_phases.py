import json
import subprocess
import sys

import pytest
from rich.table import Table

from scripts.checks import phases as check_phases


@pytest.mark.parametrize("how", ["accumulated", "resumed"])
def test_a_run_tells_what_was_found_of_every_part(how):
    command = [sys.executable, check_phases.__file__, "--only", how, "--awake"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    run = json.loads(done.stdout.splitlines()[-1])
    assert list(run["found"]) == [*check_phases.SECONDS, *check_phases.OUTSIDE_SECONDS]
    assert all(seconds > 0 for seconds in run["found"].values())
    assert run["steps"] == {"accumulated": 19, "resumed": 13}[how]


def told(monkeypatch, found, without=0.0, slept=1.0):
    """Whether what is found of one second of sleep in 10 steps is called right."""

    def in_own_process(how, *options):
        seconds = {"data": without if options else found}
        return {"slept": {"data": slept}, "found": seconds, "steps": 10}

    monkeypatch.setattr(check_phases, "in_own_process", in_own_process)
    table = Table("run", "where", "slept", "found", "without sleep", "off", "")
    return check_phases.add_rows(table, "plain")


@pytest.mark.parametrize(
    ("found", "without", "right"),
    [
        (1.0, 0.0, True),
        (1.019, 0.0, True),
        (1.021, 0.0, False),
        (0.981, 0.0, True),
        (0.979, 0.0, False),
        (1.5, 0.5, True),
    ],
)
def test_two_percent_are_right_beyond_what_a_run_without_sleep_takes(monkeypatch, found, without, right):
    assert told(monkeypatch, found, without) is right


def test_a_millisecond_a_batch_is_right(monkeypatch):
    assert told(monkeypatch, 0.1099, slept=0.1)
    assert not told(monkeypatch, 0.1101, slept=0.1)
