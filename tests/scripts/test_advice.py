import json
import subprocess
import sys

import pytest
from rich.table import Table

from scripts.checks import advice as check

CAUSE = check.Cause("slow-callback", lambda is_there: None, ("in callbacks", "look at Sleeping"))
NAMED = "31 ms of 65 ms a step are spent in callbacks and logging: look at Sleeping."


def test_a_run_prints_its_advice():
    command = [sys.executable, check.__file__, "--only", "slow-callback", "--run", "with"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    run = json.loads(done.stdout.splitlines()[-1])
    assert run["is_possible"]
    assert "look at Sleeping" in run["advice"]


def told(monkeypatch, cause, said, without, is_possible=True):
    """Whether the advice of a run with a cause and of one without it is called right, and the row's cells."""
    runs = {"with": said, "without": without}
    monkeypatch.setattr(check, "in_own_process", lambda name, how: {"advice": runs[how], "is_possible": is_possible})
    table = Table("cause", "advice that came", "")
    right = check.add_row(table, cause)
    return right, [next(column.cells) for column in table.columns]


@pytest.mark.parametrize(
    ("said", "without", "right"),
    [
        (NAMED, None, True),
        (f"{NAMED}\nAnother.", "Another.", True),
        (NAMED, NAMED, False),
        (None, None, False),
        ("31 ms of 65 ms a step are spent in callbacks and logging: look at Another.", None, False),
    ],
)
def test_advice_is_right_if_it_names_the_cause_where_it_is_there_and_only_there(monkeypatch, said, without, right):
    found, cells = told(monkeypatch, CAUSE, said, without)
    assert found is right
    assert cells[2].startswith("right" if right else "WRONG")


def test_a_cause_that_this_machine_cannot_provoke_is_not_wrong(monkeypatch):
    assert told(monkeypatch, CAUSE, None, None, is_possible=False) == (
        True,
        ["slow-callback", "", "not possible on this machine"],
    )


def test_a_run_without_a_cause_may_name_none(monkeypatch):
    none = check.Cause(check.NO_CAUSE, lambda is_there: None, ())
    assert told(monkeypatch, none, "Something else.", None)[0]
    assert not told(monkeypatch, none, NAMED, None)[0]
