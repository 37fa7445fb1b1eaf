"""The comparison of loops: every loop runs, counts the same FLOPs, and one that is off is said to be."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from mfu_callback.flops import FlopCount
from mfu_callback.meter.summary import Summary
from scripts.comparisons.loops import print_table

ROOT = Path(__file__).parents[2]
WATERFALL = {"mfu": 0.5, "kernels": 0.4, "data": 0.02, "optimizer": 0.05, "other": 0.03}


def summary(mfu, forward=100):
    return Summary(steps=3, mfu=mfu, flops=FlopCount(forward=forward, thop=forward, functional=0), waterfall=WATERFALL)


def test_every_loop_runs_and_counts_the_same(tmp_path):
    command = [sys.executable, "-m", "scripts.comparisons.loops", "--rounds", "1", "--steps", "8"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode in (0, 1), done.stderr  # of one round each, a loop may be off by chance
    rows = re.findall(r"│ ([A-Z a-z']+?) +│ ([\d,]+) │", done.stdout)
    assert [name for name, _ in rows] == [
        "Lightning's Trainer",
        "loop of one's own",
        "Fabric",
        "accelerate",
        "Hugging Face's Trainer",
    ]
    assert len({flops for _, flops in rows}) == 1


@pytest.mark.parametrize(
    ("other", "agrees"),
    [(summary(0.52), True), (summary(0.53), False), (summary(0.47), False), (summary(0.5, 101), False)],
)
def test_a_loop_that_is_off_is_said_to_be(other, agrees, capsys):
    seen = {"Lightning's Trainer": [summary(0.5)] * 3, "Fabric": [other] * 3}
    assert print_table(seen) is agrees
    assert ("OFF" in capsys.readouterr().out) is not agrees
