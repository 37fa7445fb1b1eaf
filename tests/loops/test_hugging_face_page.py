"""The code of the page on Hugging Face runs as it stands."""

import re
from pathlib import Path

import pytest

from tests.helpers.pages import printed_by
from tests.helpers.torch_features import needs

PAGE = (Path(__file__).parents[2] / "docs" / "hugging-face.md").read_text()


NEEDED = needs("transformers.Trainer._run_epoch", "5.3", of="transformers")


@pytest.mark.parametrize("name", [pytest.param("Trainer", marks=NEEDED), "Accelerator"])
def test_the_code_of_the_page_runs(name, tmp_path):
    (block,) = (
        one
        for one in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
        if f"import {name}" in one or f", {name}," in one
    )
    printed = printed_by(block, tmp_path)
    assert "tokens/s" in printed
    if name == "Trainer":
        assert (tmp_path / "out" / "mfu_summary.json").is_file()
