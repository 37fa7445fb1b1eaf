"""Runs of the benchmark, as its tests start them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from scripts.bench_parts.process import SIGNALS_TO_END
from scripts.bench_parts.row import Request, Row

SCRIPTS = Path(__file__).parents[2] / "scripts"
GIB = 2**30


def run_bench(*arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """The end of a benchmark, with what it printed."""
    command = [sys.executable, str(SCRIPTS / "bench.py"), *arguments]
    environment = os.environ | {"COLUMNS": "140"}
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment)


def request(output: Path, **changes: Any) -> Request:
    """The request of a run of gpt-small at the smallest cost."""
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
        "compile": None,
        "checkpoint_activations": False,
        "accumulate_grad_batches": 1,
        "tf32": False,
        "as_notebook": False,
        "output": str(output),
    }
    return Request(**fields | changes)


def workers() -> list[psutil.Process]:
    """The processes of the benchmark: other tests may have left one of their own, or a zombie."""
    children = psutil.Process().children(recursive=True)
    running = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in running if any("bench_parts" in part for part in child.cmdline())]


def measured_row(**changes: Any) -> Row:
    """The row of a run that measured something, with round figures."""
    fields = {
        "size": "gpt-small",
        "parameters": 124_439_808,
        "precision": "32-true",
        "batch_size": 1,
        "context_length": 1024,
        "steps": 7,
        "device": "AMD EPYC, 2 threads",
        "devices": 1,
        "strategy": "auto",
        "checkpoint_activations": False,
        "accumulate_grad_batches": 1,
        "tf32": False,
        "torch": "2.13.0",
        "forward_flops_thop": 250_000_000_000,
        "forward_flops": 300_000_000_000,
        "tokens_per_sec": 128.0,
        "step_time_sec": 8.0,
        "mfu": 0.5,
        "mfu_achievable": 0.5,
        "peak_memory_bytes": 4 * GIB,
        "peak_flops_per_sec": 225e9,
        "peak_source": "measured: best of 20 matmuls",
    }
    return Row(**fields | changes)


@contextmanager
def signals_kept() -> Iterator[None]:
    """A context at whose end signals are handled as before."""
    before = {number: signal.getsignal(number) for number in SIGNALS_TO_END}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
