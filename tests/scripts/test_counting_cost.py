import subprocess
import sys
from pathlib import Path

import pytest

from scripts.comparisons import counting_cost

SCRIPT = Path(counting_cost.__file__)


@pytest.mark.parametrize("size", ["resnet-50", "gpt-small"])
def test_a_counted_step_is_compared_with_a_plain_one(size):
    short = [
        "--batch-size=1",
        "--context-length=8",
        "--dtype=fp32",
        "--rounds=1",
        "--warmup=0",
        "--meta-size=gpt-small",
    ]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--size", size, *short], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "counted over plain: ratio of medians" in done.stdout
    assert "gpt-small on the meta device: built in" in done.stdout
    assert "(5.8330e+11 FLOPs)" in done.stdout
