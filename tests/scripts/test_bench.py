"""Whole runs of the benchmark, and what stands in for a size that has none."""

import json
import re
import sys
import time
from argparse import Namespace
from dataclasses import fields

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from scripts import bench
from scripts.bench_parts import sizes
from scripts.bench_parts.progress import Expected
from scripts.bench_parts.row import Row
from scripts.bench_parts.run import Machine, choice_of, expected_sec, request_of, run_size
from scripts.bench_parts.table import losses_of, notes_of, table_of
from tests.helpers.bench_runs import request, run_bench, signals_kept, workers
from tests.helpers.runs import FakeNow

KEYS = [field.name for field in fields(Row)]


def test_flops_only_prints_thops_and_the_complete_count_of_all_sizes(tmp_path):
    output = tmp_path / "out"
    done = run_bench("--flops-only", "--batch-size", "2", "--context-length", "1024", "--output", str(output))
    assert done.returncode == 0, done.stderr
    for figures in (
        ("gpt-small", "124M", "5.1e+11", "5.8330e+11"),
        ("gpt-medium", "355M", "1.4e+12", "1.6539e+12"),
        ("gpt-large", "774M", "3.2e+12", "3.5491e+12"),
        ("gpt-xl", "1,558M", "6.4e+12", "7.0134e+12"),
    ):
        line = next(line for line in done.stdout.splitlines() if figures[0] in line)
        assert all(figure in line for figure in figures)
    rows = json.loads((output / "bench.json").read_text())
    assert [list(row) for row in rows] == [KEYS] * 4


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A real run of the smallest size at the smallest cost."""
    output = tmp_path_factory.mktemp("bench") / "out"
    arguments = ("--sizes", "gpt-small", "--batch-size", "1", "--context-length", "16", "--max-steps", "5")
    arguments += ("--accelerator", "cpu")
    return output, run_bench(*arguments, "--output", str(output))


def test_a_run_writes_its_row_its_picture_and_its_curves(measured):
    output, done = measured
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = json.loads((output / "bench.json").read_text())
    assert list(row) == KEYS
    assert (row["size"], row["parameters"], row["batch_size"], row["context_length"]) == (
        "gpt-small",
        124_439_808,
        1,
        16,
    )
    assert (row["error"], row["reason"], row["steps"]) == (None, None, 3)
    assert row["forward_flops"] == 12 * (24 * 16 * 768**2 + 4 * 16**2 * 768) + 2 * 16 * 768 * 50257
    assert row["mfu"] == pytest.approx(
        3 * row["forward_flops"] / 16 * row["tokens_per_sec"] / row["peak_flops_per_sec"]
    )
    assert row["mfu_achievable"] == pytest.approx(row["mfu"])
    assert (
        row["peak_memory_bytes"] > 4 * 2 * 124_439_808
    )  # weights, gradients and AdamW's two moments, at least in bf16
    assert (output / "bench.png").read_bytes().startswith(b"\x89PNG")
    events = EventAccumulator(str(output / "tensorboard" / "gpt-small"))
    events.Reload()
    assert [event.step for event in events.Scalars("throughput/mfu")] == [2, 3, 4]


def test_the_last_line_is_the_command_that_opens_the_curves(measured):
    output, done = measured
    assert done.stdout.rstrip().splitlines()[-1].endswith(f"tensorboard --logdir {output / 'tensorboard'}")
    assert "gpt-small: " in done.stdout  # the row as soon as it was there


def test_what_was_found_and_how_long_it_will_take_is_said_first(measured):
    output, done = measured
    lines = done.stdout.splitlines()
    (row,) = json.loads((output / "bench.json").read_text())
    assert re.fullmatch(rf"(float32|bfloat16) [\d.]+ [GT]FLOP/s, .*: {row['precision']}", lines[0])
    assert re.fullmatch(r"about \d+ (s|minutes) for 1 size, 10 minutes at most", lines[1])
    assert f"({row['precision']}, 1 x 16, 3 steps)" in lines[2]


def test_results_are_never_written_over(measured):
    output, _ = measured
    done = run_bench("--flops-only", "--output", str(output))
    assert done.returncode == 2
    assert "holds the results of another run; give another directory" in done.stderr


def test_runs_in_turns_are_kept_and_compared_with_an_earlier_run(measured, tmp_path):
    before, _ = measured
    earlier, output = str(before / "bench.json"), tmp_path / "out"
    arguments = ["--sizes", "gpt-small", "--batch-size", "1", "--context-length", "16", "--max-steps", "4"]
    arguments += ["--accelerator", "cpu", "--repeat", "2", "--against", earlier, "--output", str(output)]
    done = run_bench(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = json.loads((output / "bench.json").read_text())
    assert len(row["runs"]) == 2
    assert row["tokens_per_sec"] == min(run["tokens_per_sec"] for run in row["runs"])
    assert [run["runs"] for run in row["runs"]] == [None, None]
    assert {path.name for path in (output / "tensorboard").iterdir()} == {"gpt-small", "gpt-small-2"}
    (then,) = json.loads((before / "bench.json").read_text())
    page = (output / "bench.md").read_text()
    assert f"| gpt-small | {row['tokens_per_sec'] / then['tokens_per_sec']:.3f} (" in page
    assert "median (and range) of 2 runs" in page
    assert f"Over {earlier}: ratio (now / then)" in done.stdout
    assert "gpt-small, run 2: " in done.stdout


def test_a_size_that_fails_is_a_row_with_its_error_and_the_table_shows_it(tmp_path):
    row = run_size(request(tmp_path, strategy="no-such-strategy"), lambda event: None)
    assert row.error.startswith("ValueError: You selected an invalid strategy name")
    table = table_of([row, Row(size="gpt-xl", mfu=0.5)], "title")
    assert table.heads == ["size", "MFU"]
    assert notes_of([row, Row(size="gpt-xl", mfu=0.5)]) == [f"gpt-small: {row.error}"]


def test_what_the_kernels_lost_is_a_line_below_the_table():
    kernels = {"matmuls": 0.09, "attention": 0.05, "memory": 0.124, "transfers": 0.0, "gaps": 0.012}
    rows = [Row(size="gpt-small", kernels=kernels), Row(size="gpt-xl", mfu=0.5)]
    assert losses_of(rows) == ["gpt-small kernels: memory-bound 12%, matmuls 9%, attention 5%, gaps 1%"]


def test_a_size_that_is_late_is_ended_and_says_which_option_would_run_it(tmp_path):
    row = run_size(request(tmp_path, end_at=time.time() + 1), lambda event: None)
    assert (row.error, row.mfu) == (None, None)
    assert row.reason == "not over in the 1 s left for it: --sizes gpt-small --minutes 2"
    assert workers() == []


def test_a_size_whose_shortest_step_takes_too_long_says_how_long(tmp_path):
    """As gpt-xl in bfloat16 on a CPU that multiplies it at 2 GFLOP/s; here the rate is given, as with --compile."""
    row = run_size(
        request(tmp_path, compile="default", context_length=None, max_steps=None, flops_per_sec=1e5), lambda event: None
    )
    assert row.mfu is None
    assert re.fullmatch(
        r"a step of 1 x 8 tokens takes about \d+ s in 32-true, and \d+ s were left: --sizes gpt-small --minutes \d+",
        row.reason,
    )


def test_fewer_steps_than_asked_for_are_said(tmp_path):
    row = run_size(request(tmp_path, max_steps=100_000, end_at=time.time() + 60), lambda event: None)
    assert re.fullmatch(r"\d+ of 100000 steps were trained in its time: give more --minutes", row.reason)
    assert row.steps > 0
    assert row.mfu > 0


def test_a_size_that_does_not_fit_is_a_row_and_no_process_is_started(tmp_path, monkeypatch, capsys):
    survey = Machine(rates={"32-true": 1e11, "bf16-true": 1e9}, text="float32 100 GFLOP/s", memory_bytes=2**30)
    monkeypatch.setattr(sizes, "survey", lambda arguments: survey)
    monkeypatch.setattr(sizes, "run_size", lambda *_: 1 / 0)
    monkeypatch.setattr(sys, "argv", ["bench.py", "--sizes", "gpt-xl", "gpt-large", "--output", str(tmp_path / "out")])
    with signals_kept(), pytest.raises(SystemExit) as ended:
        bench.main()
    assert ended.value.code == 0
    out = capsys.readouterr().out
    needs = "training needs 23.3 GiB in 32-true and 11.6 GiB in bf16-true, 1.0 GiB are available"
    assert f"gpt-xl: {needs}" in out
    rows = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert [row["size"] for row in rows] == ["gpt-xl", "gpt-large"]


@pytest.mark.parametrize("batch_size", [None, "auto", 2])
@pytest.mark.parametrize("precision", ["auto", "bf16-mixed", "16-true", "32-true"])
@pytest.mark.parametrize("rates", [{}, {"32-true": 1e11, "bf16-true": 1e9}])
def test_every_precision_has_an_expectation_also_if_nothing_could_be_measured(batch_size, precision, rates, tmp_path):
    machine = Machine(rates=rates, text="", memory_bytes=2**40)
    asked = {"precision": precision, "batch_size": batch_size, "context_length": None, "max_steps": None}
    others = {"strategy": "auto", "devices": 1, "accelerator": "cpu", "sizes": ["gpt-small"], "budget": None}
    fixed = {"compile": None, "tf32": False, "as_notebook": False, "output": str(tmp_path), "repeat": 1}
    work = {"accumulate_grad_batches": 1, "checkpoint_activations": False, "end_at": time.time() + 600}
    arguments = Namespace(**asked, **others, **fixed, **work)
    choice = choice_of("gpt-small", arguments, machine)
    assert 0 < expected_sec("gpt-small", choice, arguments, machine) <= 600
    made = request_of("gpt-small", choice.precision, arguments, machine, time.time())
    known = {"bf16-mixed": 1e9, "16-true": None, "auto": 1e11, "32-true": 1e11}
    assert made.flops_per_sec == (known[precision] if rates else None)
    assert made.find_batch_size is (batch_size == "auto")


def test_what_a_library_prints_does_not_disturb_the_events(tmp_path, monkeypatch):
    monkeypatch.setenv("ONEDNN_VERBOSE", "1")  # printed by C code
    monkeypatch.setenv("MKL_VERBOSE", "1")
    row = run_size(request(tmp_path, max_steps=3), lambda event: None)
    assert row.error is None
    assert row.mfu > 0


def test_the_time_left_follows_what_is_known():
    now = FakeNow()
    expected = Expected({"gpt-small": 60.0, "gpt-medium": 120.0}, now=now)
    assert (expected.whole, expected.left) == (180.0, 180.0)
    expected.begin("gpt-small")
    now.seconds = 20.0
    expected.expect(80.0)
    assert (expected.whole, expected.left) == (220.0, 200.0)
    now.seconds = 90.0
    expected.end()
    assert (expected.whole, expected.left) == (210.0, 120.0)
    now.seconds = 500.0
    assert (expected.whole, expected.passed, expected.left) == (500.0, 500.0, 0.0)
