"""The figures of processes that a strategy spawns, as the process has them that spawned these."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import spawned_fit

SCRIPT = Path(spawned_fit.__file__)
ROOT = SCRIPT.parents[2]
PRODUCT = 2 * 4 * 8 * (8 + 4)  # of the two layers with four samples


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork"])
def test_the_main_process_has_the_figures_of_each_run(strategy, tmp_path):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    environment = {"OMP_NUM_THREADS": "1", "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", str(SCRIPT), strategy, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | environment)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["before"] is None
    first = seen["first"]
    assert (first["steps"], first["flops"]["forward"], len(first["devices"])) == (5, PRODUCT, 2)
    assert first["steps_by_part"] == {"warmup": 1, "training": 5}
    assert seen["dtype"] == "torch.float32"
    assert "throughput/mfu" in seen["logged"]  # what Lightning itself brings back
    assert seen["again"] == seen["copied"] == seen["after the test"] == first
    written = json.loads((tmp_path / "run" / "mfu_summary.json").read_text())
    assert {name: written[name] for name in first} == first
    assert seen["tested"] == [9, PRODUCT]  # ten batches of each process, less the warm-up
    assert seen["left"] == []
