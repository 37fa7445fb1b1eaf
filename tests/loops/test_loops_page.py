"""The code of the page on loops runs as it stands, and leaves what the page says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "loops.md").read_text()
OWN, FABRIC = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize(("block", "file"), [(OWN, "runs/one/mfu_summary.json"), (FABRIC, "logs/*/*/mfu_summary.json")])
def test_the_code_of_the_page_runs(block, file, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", block],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": ":".join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("MFU ")
    assert len(list(tmp_path.glob(file))) == 1
