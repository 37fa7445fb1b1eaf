import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mfu_callback import count_flops
from scripts.comparisons import counters as compare_counters
from scripts.comparisons.counter_parts.models import SUBJECTS, recurrent_flops
from scripts.comparisons.counter_parts.nets import RecurrentConfig
from scripts.comparisons.counter_parts.tools import COUNTERS, Counter
from scripts.comparisons.counters import Row, details, fractions

SCRIPTS = Path(__file__).parents[2] / "scripts"
INSTALLED_FOR_TESTS = ("forward-alone", "mfu-callback", "FlopCounterMode", "thop")
ON_LINUX = sys.platform == "linux"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The script on one tiny model, with the tools that the tests' environment has."""
    output = tmp_path_factory.mktemp("counters") / "rows.json"
    arguments = ("--models", "lstm", "--counters", *INSTALLED_FOR_TESTS, "--output", str(output))
    command = [sys.executable, str(SCRIPTS / "comparisons" / "counters.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | {"COLUMNS": "140"})
    assert done.returncode == 0, done.stderr
    return done.stdout, {row["counter"]: row for row in json.loads(output.read_text())}


def test_every_counter_is_a_row_with_its_count_time_and_memory(run):
    _, rows = run
    assert tuple(rows) == INSTALLED_FOR_TESTS
    for row in rows.values():
        assert (row["model"], row["error"]) == ("lstm", None)
        assert row["closed_form"] == recurrent_flops(RecurrentConfig())
        assert row["first_sec"] > 0
        assert row["again_sec"] > 0
        assert row["memory_bytes"] >= 0
    assert not ON_LINUX or rows["forward-alone"]["memory_bytes"] > 0


def test_the_counts_are_in_flops_of_the_whole_batch(run):
    _, rows = run
    assert rows["forward-alone"]["flops"] is None
    assert rows["mfu-callback"]["flops"] == rows["mfu-callback"]["closed_form"]
    assert rows["thop"]["flops"] == pytest.approx(rows["thop"]["closed_form"], rel=0.05)
    assert 0 < rows["FlopCounterMode"]["flops"] <= 1.05 * rows["FlopCounterMode"]["closed_form"]


def test_the_tables_show_the_rows(run):
    printed, rows = run
    lines = [line.replace("│", " ").split() for line in printed.splitlines()]
    assert ["mfu-callback", "1"] in lines
    assert ["thop", f"{rows['thop']['flops'] / rows['thop']['closed_form']:.4f}"] in lines
    assert any(
        line[:5] == ["lstm", "mfu-callback", "FLOPs", f"{rows['mfu-callback']['flops']:.4e}", "1"] for line in lines
    )


@pytest.mark.parametrize("name", SUBJECTS)
def test_our_count_of_every_model_is_its_closed_form(name):
    subject = SUBJECTS[name]
    config = subject.config()
    count = count_flops(subject.model(config), *subject.inputs(config))
    assert (count.forward, count.uncounted) == (subject.flops(config), ())


def failing(counter, monkeypatch):
    monkeypatch.setattr(compare_counters, "COUNTERS", {**COUNTERS, "lost": counter})
    return compare_counters.measure("lost", "lstm", timeout=100)


def test_a_missing_tool_is_a_row_that_says_how_to_install_it(monkeypatch):
    lost = Counter(count=lambda model, inputs: 0, module="no_such_tool.profiler", package="no-such-tool")
    row = failing(lost, monkeypatch)
    assert row == Row(counter="lost", model="lstm", error="not installed: pip install no-such-tool")
    table = details([row])
    assert list(table.columns[-1].cells) == ["not installed: pip install no-such-tool"]
    assert list(fractions([row], ["lost"], ["lstm"]).columns[1].cells) == ["no count"]


def test_a_tool_that_fails_is_a_row_that_says_why(monkeypatch):
    row = failing(COUNTERS["thop"], monkeypatch)  # under a name that its process does not know
    assert (row.flops, row.error) == (None, "KeyError: 'lost'")


def test_a_process_that_dies_is_a_row_with_its_last_words(monkeypatch, tmp_path):
    dying = "import os, sys; print('a fault', file=sys.stderr, flush=True); os.abort()"
    worker = tmp_path / "counter_parts" / "worker.py"
    worker.parent.mkdir()
    worker.write_text(dying)
    monkeypatch.setattr(compare_counters, "__file__", str(tmp_path / "counters.py"))
    row = compare_counters.measure("thop", "lstm", timeout=100)
    assert row.error == "ended by signal 6: a fault"


def test_a_process_that_takes_too_long_is_a_row():
    row = compare_counters.measure("mfu-callback", "lstm", timeout=0.01)
    assert row.error == "not done after 0.01 s"


@pytest.mark.parametrize(("code", "words"), [(3, "ended with status 3"), (-11, "ended by signal 11")])
def test_the_end_of_a_process_in_words(code, words):
    assert compare_counters.how_it_ended(code) == words
