"""Finds out what the benchmark's device can do, in a process of its own: `survey.py {"accelerator": ..., "tf32": ...}`.

Writes one JSON line to standard output: how fast the device multiplies in each dtype that it can train in, by
precision of Lightning's Trainer, the same as text, and its available memory.
"""

from __future__ import annotations

import json
import sys

import torch

from mfu_callback.finder.limits.available import available_bytes
from mfu_callback.peaks import rates_in_training
from mfu_callback.peaks.hints import PRECISIONS, rates_text
from scripts.bench_parts.process import end_with_parent, events_to_stdout


def main() -> None:
    """Measure, and write the result."""
    events = events_to_stdout()
    asked = json.loads(sys.argv[1])
    if asked["tf32"]:
        torch.set_float32_matmul_precision("high")
    device = torch.device(asked["accelerator"])
    rates = rates_in_training(device)
    by_precision = {PRECISIONS[dtype]: rate.in_training for dtype, rate in rates.items()}
    memory = torch.cuda.mem_get_info()[0] if device.type == "cuda" else available_bytes()
    found = {"rates": by_precision, "text": rates_text(rates), "memory_bytes": memory}
    print(json.dumps(found), file=events, flush=True)


if __name__ == "__main__":
    end_with_parent()
    main()
