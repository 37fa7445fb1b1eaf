"""Counts one model with one tool in its own process: `worker.py COUNTER MODEL`.

Writes one JSON object to standard output, with those fields of `Row` in `counters.py` that it knows.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from scripts.comparisons.counter_parts.models import SUBJECTS, Subject
from scripts.comparisons.counter_parts.tools import COUNTERS


def main() -> None:
    """Run the count that the command line names."""
    counter, model = sys.argv[1:]
    answer, sys.stdout = sys.stdout, sys.stderr  # what a tool prints is no answer
    try:
        fields = measure(counter, model)
    except Exception as error:
        fields = {"error": " ".join(f"{type(error).__name__}: {error}".split())}
    print(json.dumps(fields), file=answer)


def measure(counter_name: str, model_name: str) -> dict[str, Any]:
    """Count twice, each time on a new model: first with time and memory, then with time alone.

    The second count is free of the costs of first use.
    """
    counter, subject = COUNTERS[counter_name], SUBJECTS[model_name]
    importlib.import_module(counter.module)
    config = subject.config()
    model, inputs = prepare(subject, config)
    before = restart_peak()
    flops, first = timed(lambda: counter.flops(model, inputs))
    memory = peak_bytes() - before
    del model
    model, inputs = prepare(subject, config)
    _, again = timed(lambda: counter.flops(model, inputs))
    took = {"first_sec": first, "again_sec": again, "memory_bytes": memory}
    return {"flops": flops, "closed_form": subject.flops(config), **took}


def prepare(subject: Subject, config: Any) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Returns a model in training mode and its inputs.

    The model has run once, so that no tool is charged for the forward pass's own first use.
    """
    torch.manual_seed(0)
    model, inputs = subject.model(config).train(), subject.inputs(config)
    with torch.no_grad():
        model(*inputs)
    return model, inputs


def timed(count: Callable[[], float | None]) -> tuple[float | None, float]:
    """Returns the count and the seconds that it took."""
    start = perf_counter()
    counted = count()
    return counted, perf_counter() - start


def restart_peak() -> int:
    """Give freed memory back and reset the peak, as far as the system can; returns the peak after that."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)  # only in glibc
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # proc(5)
    return peak_bytes()


def peak_bytes() -> int:
    """Returns the peak resident memory of this process.

    On Linux, ru_maxrss starts at the parent's size and cannot be reset; VmHWM can.
    """
    status = Path("/proc/self/status")
    if status.exists() and (line := re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)):
        return int(line[1]) * 1024
    kibibytes_or_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kibibytes_or_bytes * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
