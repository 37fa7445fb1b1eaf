"""The code of the page on loops runs as it stands, and leaves what the page says."""

import re
from pathlib import Path

import pytest

from tests.helpers.pages import printed_by

PAGE = (Path(__file__).parents[2] / "docs" / "loops.md").read_text()
OWN, FABRIC = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize(("block", "file"), [(OWN, "runs/one/mfu_summary.json"), (FABRIC, "logs/*/*/mfu_summary.json")])
def test_the_code_of_the_page_runs(block, file, tmp_path):
    printed = printed_by(block, tmp_path)
    assert printed.startswith("MFU ")
    assert len(list(tmp_path.glob(file))) == 1
