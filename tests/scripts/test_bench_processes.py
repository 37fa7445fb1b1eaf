"""The processes of the benchmark end when they should, and none is left behind."""

import json
import signal
import subprocess
import sys
import time

import psutil
import pytest

from scripts.bench_parts.process import run_script
from scripts.bench_parts.run import run_size
from tests.helpers.bench_runs import SCRIPTS, request, workers


def test_a_size_whose_process_is_killed_is_a_row_that_says_so(tmp_path):
    def kill_it(event):
        if "doing" in event:
            workers()[0].send_signal(signal.SIGKILL)

    row = run_size(request(tmp_path), kill_it)
    assert row.error.startswith("killed, most likely because memory ran out; see ")
    assert row.mfu is None


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
