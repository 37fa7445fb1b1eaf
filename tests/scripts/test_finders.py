import json
import subprocess
import sys

import pytest
import torch
from rich.console import Console

from scripts.comparisons import finders as compare_finders
from scripts.comparisons.finder_parts import worker as compare_finders_worker
from scripts.comparisons.finder_parts.limit import Limit, find_limit, limit_from
from scripts.comparisons.finder_parts.row import Row
from scripts.comparisons.finder_parts.subjects import SUBJECTS
from scripts.comparisons.finder_parts.table import claims, finders_table
from scripts.comparisons.finder_parts.traces import differences, traces

TEN = Limit(always=10, ever=10, tried={10: [True], 11: [False]})


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    pytest.importorskip("accelerate")
    output = tmp_path_factory.mktemp("finders") / "found.json"
    others = ["power, as it comes", "accelerate, as it comes"]
    options = ["--models", "gpt", "--rounds", "1", "--budget", "64", "--output", str(output), "--finders", *others]
    command = [sys.executable, compare_finders.__file__, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads(output.read_text())["models"]["gpt"]


def test_ours_ran_what_it_returned_found_the_limit_and_left_nothing_behind(compared):
    _, model = compared
    (ours,) = (row for row in model["rows"] if row["finder"] == "ours")
    limit = model["limit"]
    assert limit["always"] - 1 <= ours["found"] <= limit["ever"] + 1
    assert ours["ran"]
    assert ours["left"] == []
    assert ours["wrote"] == []
    assert ours["steps"] >= 2 * ours["sizes"] - 2  # the first step may fail


def test_every_finder_has_a_row_with_what_it_did(compared):
    out, model = compared
    rows = {row["finder"]: Row(**row) for row in model["rows"]}
    assert list(rows) == ["ours", "power, as it comes", "accelerate, as it comes"]
    for name, row in rows.items():
        assert row.error is None
        assert row.found >= 1
        assert row.seconds > 0
        assert row.attempts >= row.sizes >= 1
        assert name in out
    assert rows["power, as it comes"].wrote == [".ckpt"]
    assert "torch's random state" in rows["power, as it comes"].left
    assert "model.steps_seen" in rows["power, as it comes"].left


def test_the_budget_is_the_one_that_was_asked_for(compared):
    out, model = compared
    assert model["budget_bytes"] == 64 * 2**20
    assert "gpt, 64 MiB" in out
    assert "holds: ours is exact." in out


def test_the_script_and_its_worker_know_the_same_finders():
    assert tuple(compare_finders_worker.FINDERS) == compare_finders.FINDERS


@pytest.mark.parametrize("start", [1, 36, 37, 38, 200])
def test_the_limit_is_found_from_any_guess(start):
    limit = find_limit(lambda size: size <= 37, start=start, repeats=2)
    assert (limit.always, limit.ever) == (37, 37)
    assert [limit.tried[size] for size in (36, 37, 38, 39)] == [[True] * 2, [True] * 2, [False] * 2, [False] * 2]


def test_where_nothing_trains_the_limit_is_zero():
    limit = find_limit(lambda size: False, start=5, repeats=1)
    assert (limit.always, limit.ever) == (0, 0)


def test_processes_that_differ_widen_the_limit_and_one_beyond_is_exact():
    limit = limit_from({9: [True, True], 10: [True, False], 11: [True, False], 12: [False, False]})
    assert (limit.always, limit.ever) == (9, 11)
    assert [size for size in range(6, 15) if limit.is_exact(size)] == [8, 9, 10, 11, 12]


def row(finder, seconds, **fields):
    return Row(finder=finder, model="gpt", seconds=seconds, **({"found": 10, "ran": True} | fields))


def test_the_ratio_is_that_of_the_medians():
    rows = [row("ours", s) for s in (1.0, 2.0, 9.0)] + [row("binsearch", s) for s in (8.0, 5.0, 90.0)]
    said = claims(rows, TEN)
    assert said.over_binsearch == 0.25
    assert said.is_exact
    assert all(line.startswith("holds: ") for line in said.lines())


@pytest.mark.parametrize("fields", [{"found": 8}, {"found": 12}, {"ran": False}, {"found": None, "error": "it broke"}])
def test_one_round_that_is_off_is_not_exact(fields):
    said = claims([row("ours", 1.0), row("ours", 1.0, **fields)], TEN)
    assert not said.is_exact
    assert said.lines()[0].startswith("DOES NOT HOLD: ")


def test_what_broke_or_never_ran_is_said_in_the_table(capsys):
    rows = [
        row("ours", 1.0),
        row("binsearch", 1.0, found=None, ran=False, error="ValueError: no validation"),
        row("power", 1.0, found=16, ran=False),
    ]
    Console(width=150).print(finders_table("gpt", 2**20, rows, TEN))
    lines = capsys.readouterr().out.splitlines()
    assert "none" in next(line for line in lines if " binsearch " in line)
    assert "ended by ValueError" in next(line for line in lines if " binsearch " in line)
    assert next(line for line in lines if " power " in line).count("NO") == 2
    assert claims(rows, TEN).over_binsearch is None


def test_whatever_a_search_changes_is_named():
    torch.manual_seed(0)
    module, trainer = SUBJECTS["gpt"].module(), compare_finders_worker.make_trainer()
    before = traces(module, trainer)
    assert differences(before, traces(module, trainer)) == []
    next(module.parameters()).data.add_(1)
    module.eval().steps_seen = 3
    torch.rand(1)
    trainer.callbacks = []
    changed = differences(before, traces(module, trainer))
    assert changed == ["weights", "train/eval flags", "torch's random state", "trainer.callbacks", "model.steps_seen"]


def test_a_size_beyond_the_budget_does_not_train_and_the_process_goes_on():
    requests = [{"model": "gpt", "budget_bytes": 64 * 2**20, "size": size} for size in (1, 500)]
    command = [sys.executable, compare_finders_worker.__file__]
    runs = [subprocess.run([*command, json.dumps(r)], capture_output=True, text=True, timeout=200) for r in requests]
    assert [json.loads(done.stdout)["fits"] for done in runs] == [True, False]
    assert "can't allocate memory" in json.loads(runs[1].stdout)["why"]


def test_wrong_numbers_are_named():
    done = subprocess.run([sys.executable, compare_finders.__file__, "--rounds", "0"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "give 1 or more" in done.stderr
