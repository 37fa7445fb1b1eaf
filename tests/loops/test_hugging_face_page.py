"""The code of the page on Hugging Face runs as it stands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "hugging-face.md").read_text()


@pytest.mark.parametrize("name", ["Trainer", "Accelerator"])
def test_the_code_of_the_page_runs(name, tmp_path):
    (block,) = (
        one
        for one in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
        if f"import {name}" in one or f", {name}," in one
    )
    done = subprocess.run(
        [sys.executable, "-c", block],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"PYTHONPATH": ":".join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    assert "tokens/s" in done.stdout
    if name == "Trainer":
        assert (tmp_path / "out" / "mfu_summary.json").is_file()
