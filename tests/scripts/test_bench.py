import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gpt import GPT, SIZES
from mfu_callback import count_flops, model_flops_utilization
from scripts import bench
from scripts.bench_parts.replaced import RESULTS, vector_peak
from scripts.bench_parts.row import Request, Row, table_of

SCRIPTS = Path(__file__).parents[2] / "scripts"
KEYS = [
    *("size", "parameters", "batch_size", "context_length", "precision", "device"),
    *("forward_flops_thop", "forward_flops", "tokens_per_sec", "step_time_sec", "mfu", "mfu_achievable"),
    *("peak_memory_bytes", "peak_flops_per_sec", "peak_source", "error"),
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
    arguments = ("--sizes", "gpt-small", "--context-length", "16", "--batch-size", "1", "--accelerator", "cpu")
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
    assert row["error"] is None
    assert row["forward_flops"] == 12 * (24 * 16 * 768**2 + 4 * 16**2 * 768) + 2 * 16 * 768 * 50257
    assert row["mfu"] == pytest.approx(
        3 * row["forward_flops"] / 16 * row["tokens_per_sec"] / row["peak_flops_per_sec"]
    )
    assert row["mfu_achievable"] == row["mfu"]
    assert row["peak_memory_bytes"] > 4 * 2 * 124_439_808  # weights, gradients and AdamW's two moments in bf16
    assert (output / "bench.png").read_bytes().startswith(b"\x89PNG")
    events = EventAccumulator(str(output / "tensorboard" / "gpt-small"))
    events.Reload()
    assert [event.step for event in events.Scalars("throughput/mfu")] == [2, 3, 4]


def test_the_last_line_is_the_command_that_opens_the_curves(measured):
    output, done = measured
    assert done.stdout.rstrip().splitlines()[-1].endswith(f"tensorboard --logdir {output / 'tensorboard'}")
    assert "gpt-small: " in done.stdout  # the row as soon as it was there


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
        (["--devices", "0"], "--devices 0: give at least 1"),
        (["--budget", "much", "--batch-size", "auto"], "'much' is not a size"),
        (["--budget", "8GiB", "--batch-size", "2"], "--budget: is for --batch-size auto"),
        (["--flops-only", "--batch-size", "auto"], "--batch-size auto: --flops-only trains nothing"),
        (["--accelerator", "cpu", "--precision", "16-true"], "fp16 is about 100 times slower than fp32 on a CPU"),
        (["--accelerator", "cpu", "--precision", "16-mixed"], "give bf16-true or 32-true"),
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
        "batch_size": 1,
        "budget": None,
        "context_length": 16,
        "precision": "bf16-true",
        "max_steps": 5,
        "warmup_steps": 2,
        "accelerator": "cpu",
        "devices": 1,
        "strategy": "auto",
        "compile": False,
        "peaks": "dense",
        "output": str(tmp_path),
    }
    return Request(**fields | changes)


def test_a_size_whose_process_is_killed_is_a_row_that_says_so(tmp_path):
    def kill_it(**event):
        if "doing" in event:
            psutil.Process().children()[0].send_signal(signal.SIGKILL)

    row = bench.run_in_process(request(tmp_path), kill_it)
    assert row.error.startswith("killed, most likely because memory ran out; see ")
    assert row.mfu is None


def test_a_size_that_fails_is_a_row_with_its_error_and_the_table_shows_it(tmp_path):
    row = bench.run_in_process(request(tmp_path, strategy="no-such-strategy"), lambda **_: None)
    assert row.error.startswith("ValueError: You selected an invalid strategy name")
    table = table_of([row, Row(size="gpt-xl", mfu=0.5)], "title")
    assert [column.header for column in table.columns] == ["size", "MFU"]
    assert row.error in table.caption


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
