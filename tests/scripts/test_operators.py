"""scripts/checks/operators.py, on small batches; what its times are on this machine is not asserted."""

import subprocess
import sys

import pytest

from scripts.checks import operators as check_operators


def test_it_tells_of_every_phase_and_the_flops_are_those_of_the_count():
    options = ["--batch-size", "1", "--context-length", "16"]
    command = [sys.executable, check_operators.__file__, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, 1), done.stderr
    assert all(f"│ {phase}" in done.stdout for phase in check_operators.PHASES)
    last = done.stdout.splitlines()[-1]
    assert last.startswith("FLOPs of the operators ")
    assert last.endswith("right")


@pytest.mark.parametrize(
    ("found", "verdict"), [(1.0, "right"), (0.971, "right"), (0.969, "WRONG"), (1.029, "right"), (1.031, "WRONG")]
)
def test_more_than_three_percent_off_is_wrong(found, verdict):
    assert check_operators.verdict_on(found, 1.0) == verdict
