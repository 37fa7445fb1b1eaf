from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from gpt import GPTModule
from mfu_callback import predict_batch_size

SCRIPT = Path(__file__).parents[2] / "scripts" / "plan.py"


def plan(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_plan_prints_the_batch_that_is_predicted_for_a_device() -> None:
    done = plan("--sizes", "gpt-small", "--devices", "4090", "--context-length", "256")
    assert done.returncode == 0, done.stderr
    with torch.device("meta"):
        module = GPTModule("gpt-small").to(torch.bfloat16)
    tokens = torch.zeros(1, 256, dtype=torch.long)
    found = predict_batch_size(module, (tokens, tokens), "24 GB")
    row = next(line for line in done.stdout.splitlines() if "RTX 4090 " in line and "RTX 4090 D" not in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == ["RTX 4090", "24 GB", str(found.batch_size)]
    assert "Estimates" in done.stdout
    assert "1 GiB and 5 %" in done.stdout


def test_a_device_that_is_not_there_is_named() -> None:
    done = plan("--devices", "H1000")
    assert done.returncode == 2
    assert "--devices H1000: no device" in done.stderr


def test_a_wrong_length_is_named() -> None:
    done = plan("--context-length", "2000")
    assert done.returncode == 2
    assert "--context-length 2000: give 1 to 1024" in done.stderr
