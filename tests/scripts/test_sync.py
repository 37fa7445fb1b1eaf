import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scripts.comparisons import sync
from scripts.comparisons.simulated_device import SimulatedDevice, SimulatedEvent

SCRIPT = Path(sync.__file__)


def test_events_never_wait_for_the_device_and_steps_wait_twice():
    command = [sys.executable, str(SCRIPT), "--steps", "6", "--windows", "3", "--device-ms", "2", "--slow-ms", "5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    rows = {cells[1].strip(): cells for line in done.stdout.splitlines() if len(cells := line.split("│")) > 2}
    assert {mode: int(cells[4]) for mode, cells in rows.items()} == {
        "no meter": 0,
        "step": 12,
        "events": 0,
        "window": 1,
    }
    assert float(rows["events"][5]) == 0.0


@pytest.mark.parametrize("option", ["--device-ms=-1", "--slow-every=0", "--windows=0"])
def test_wrong_numbers_are_named(option):
    done = subprocess.run([sys.executable, str(SCRIPT), option], capture_output=True, text=True)
    assert done.returncode == 2
    assert option.split("=")[0] in done.stderr


def test_the_simulated_device_runs_behind_and_its_events_happen_in_turn():
    with SimulatedDevice() as device:
        before, after = SimulatedEvent(device), SimulatedEvent(device)
        before.record()
        device.launch(0.02)
        after.record()
        assert not after.query()
        device.synchronize(torch.device("cuda", 0))
        assert before.query()
        assert after.query()
        assert before.elapsed_time(after) >= 20
        assert device.waits == 1
