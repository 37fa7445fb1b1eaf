import json
import os
import re
import signal
import subprocess
import sys
import time
from argparse import Namespace
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gpt import GPT, SIZES
from mfu_callback import count_flops, model_flops_utilization
from scripts import bench
from scripts.bench_parts.process import SIGNALS_TO_END, run_script
from scripts.bench_parts.progress import Expected
from scripts.bench_parts.replaced import RESULTS, vector_peak
from scripts.bench_parts.row import Request, Row, losses_of, notes_of, table_of
from scripts.bench_parts.run import Machine, choice_of, expected_sec, request_of, run_size
from tests.helpers.runs import FakeNow

SCRIPTS = Path(__file__).parents[2] / "scripts"
KEYS = [
    *("size", "parameters", "precision", "batch_size", "context_length", "steps", "device"),
    *("forward_flops_thop", "forward_flops", "tokens_per_sec", "step_time_sec", "mfu", "mfu_achievable"),
    *("mfu_fastest", "kernels", "peak_memory_bytes", "peak_flops_per_sec", "peak_source", "reason", "error"),
]


def run_bench(*arguments, timeout=300):
    command = [sys.executable, str(SCRIPTS / "bench.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=os.environ | {"COLUMNS": "140"})


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sizes", "gpt-huge"], "invalid choice: 'gpt-huge'"),
        (["--batch-size", "0"], "'0' is neither a number of at least 1 nor auto"),
        (["--batch-size", "many"], "'many' is neither a number of at least 1 nor auto"),
        (["--context-length", "1025"], "--context-length 1025: give 1 to 1024"),
        (["--max-steps", "2"], "--max-steps 2: give at least 3; the first are warm-up"),
        (["--minutes", "0"], "'0' is not a number of minutes above 0"),
        (["--minutes", "soon"], "'soon' is not a number of minutes above 0"),
        (["--devices", "0"], "--devices 0: give at least 1"),
        (["--budget", "much", "--batch-size", "auto"], "'much' is not a size"),
        (["--budget", "8GiB", "--batch-size", "2"], "--budget: is for --batch-size auto"),
        (["--flops-only", "--batch-size", "auto"], "--batch-size auto: --flops-only trains nothing"),
        (["--accelerator", "cpu", "--precision", "16-true"], "fp16 is about 100 times slower than fp32 on a CPU"),
        (["--accelerator", "cpu", "--precision", "16-mixed"], "give auto, bf16-true or 32-true"),
        (["--accelerator", "cpu", "--peaks", "vector"], "has a peak for H100, L4, T4, A10G, A100, RTX 3080, RTX 3090"),
    ],
)
def test_bad_input_is_refused_with_the_option_and_the_remedy(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench.py", *arguments])
    with pytest.raises(SystemExit) as caught:
        bench.main()
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.skipif(torch.accelerator.is_available(), reason="needs a machine without an accelerator")
def test_an_accelerator_that_is_not_there_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench.py", "--accelerator", "cuda"])
    with pytest.raises(SystemExit):
        bench.main()
    assert "--accelerator cuda: this machine has none" in capsys.readouterr().err


def request(tmp_path, **changes):
    fields = {
        "size": "gpt-small",
        "precision": "32-true",
        "batch_size": 1,
        "find_batch_size": False,
        "budget": None,
        "context_length": 16,
        "max_steps": 5,
        "most_tokens": 1e6,
        "flops_per_sec": None,
        "end_at": time.time() + 300,
        "accelerator": "cpu",
        "devices": 1,
        "strategy": "auto",
        "compile": False,
        "peaks": "dense",
        "output": str(tmp_path),
    }
    return Request(**fields | changes)


def workers():
    """The processes of the benchmark: other tests may have left one of their own, or a zombie."""
    children = psutil.Process().children(recursive=True)
    running = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in running if any("bench_parts" in part for part in child.cmdline())]


def test_a_size_whose_process_is_killed_is_a_row_that_says_so(tmp_path):
    def kill_it(event):
        if "doing" in event:
            workers()[0].send_signal(signal.SIGKILL)

    row = run_size(request(tmp_path), kill_it)
    assert row.error.startswith("killed, most likely because memory ran out; see ")
    assert row.mfu is None


def test_a_size_that_fails_is_a_row_with_its_error_and_the_table_shows_it(tmp_path):
    row = run_size(request(tmp_path, strategy="no-such-strategy"), lambda event: None)
    assert row.error.startswith("ValueError: You selected an invalid strategy name")
    table = table_of([row, Row(size="gpt-xl", mfu=0.5)], "title")
    assert [column.header for column in table.columns] == ["size", "MFU"]
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
        request(tmp_path, compile=True, context_length=None, max_steps=None, flops_per_sec=1e5), lambda event: None
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
    monkeypatch.setattr(bench, "survey", lambda arguments: survey)
    monkeypatch.setattr(bench, "run_size", lambda *_: 1 / 0)
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
    fixed = {"compile": False, "peaks": "dense", "output": str(tmp_path), "end_at": time.time() + 600}
    arguments = Namespace(**asked, **others, **fixed)
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


@contextmanager
def signals_kept():
    before = {number: signal.getsignal(number) for number in SIGNALS_TO_END}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def start_bench(output, *arguments):
    command = [sys.executable, str(SCRIPTS / "bench.py"), "--output", str(output), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


SHORT = ("--context-length", "8", "--batch-size", "1", "--max-steps", "3", "--accelerator", "cpu")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_its_worker_and_the_rows_so_far_are_shown(tmp_path, number):
    with start_bench(tmp_path / "out", "--sizes", "gpt-small", "gpt-medium", *SHORT) as process:
        lines = iter(process.stdout.readline, "")
        assert any(line.startswith("gpt-small: ") for line in lines)
        worker = wait_for_worker(process.pid)
        process.send_signal(number)
        shown = "".join(lines)
        process.wait(60)
    assert process.returncode == 128 + number
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
    assert f"ended by {number.name}; the rows so far:" in shown
    assert "gpt-small" in shown
    assert "Traceback" not in shown
    assert [row["size"] for row in json.loads((tmp_path / "out" / "bench.json").read_text())] == ["gpt-small"]


def test_a_signal_that_arrives_while_a_process_is_started_ends_that_process(tmp_path, monkeypatch):
    started = []

    class Interrupted(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            started.append(self)
            signal.raise_signal(signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is not handler  # it waits until the process is known

    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_script("survey", "cpu", print, log=tmp_path / "log", end_at=time.time() + 60)
    started[0].stdout.close()  # nothing read it
    assert started[0].returncode == -signal.SIGTERM
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_worker_does_not_outlive_a_benchmark_that_is_killed(tmp_path):
    with start_bench(tmp_path / "out", "--sizes", "gpt-small", *SHORT) as process:
        process.stdout.readline()
        worker = wait_for_worker(process.pid)
        process.kill()
        psutil.wait_procs([worker], timeout=60)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


def wait_for_worker(pid):
    while not (found := [one for one in psutil.Process(pid).children() if "worker.py" in " ".join(one.cmdline())]):
        time.sleep(0.05)
    return found[0]


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


@pytest.mark.parametrize(
    ("device", "dtype", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", torch.bfloat16, 204.9e12),
        ("NVIDIA A100-SXM4-40GB", torch.float32, 19.49e12),
        ("Tesla T4", torch.float16, 65.13e12),
        ("NVIDIA GeForce RTX 3080", torch.bfloat16, 29.77e12),
        ("NVIDIA GeForce RTX 3080 Ti", torch.bfloat16, None),
        ("NVIDIA L40", torch.bfloat16, None),
        ("NVIDIA A100-SXM4-40GB", torch.float64, None),
    ],
)
def test_the_vector_peaks_belong_to_whole_names(device, dtype, peak):
    assert vector_peak(device, dtype) == peak


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: result.size)
def test_the_replaced_benchmarks_results_follow_from_its_own_figures(result):
    peak = vector_peak("NVIDIA A100-SXM4-40GB", torch.bfloat16)
    with torch.device("meta"):
        count = count_flops(GPT(SIZES[result.size]), torch.zeros(2, 1024, dtype=torch.long))
    assert count.thop == result.forward_flops
    mfu = model_flops_utilization(result.tokens_per_sec, 3 * result.forward_flops / 2048, peak)
    assert round(mfu, 4) == result.mfu
