import re
import subprocess
import sys
from pathlib import Path

import pytest

from mfu_callback import MFUCallback
from mfu_callback.meter.tags import TAGS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PYTHON_BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("block", PYTHON_BLOCKS, ids=range(len(PYTHON_BLOCKS)))
def test_the_python_in_the_readme_runs(block, tmp_path):
    done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("block", "output"), re.findall(r"```python\n([^`]*)```\n\n```text\n([^`]*)```", README))
def test_what_a_block_prints_is_what_stands_below_it(block, output):
    done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, timeout=600)
    assert [line.rstrip() for line in done.stdout.splitlines()] == output.splitlines()


def test_the_output_of_flops_only_is_that_of_the_readme(tmp_path):
    arguments = ["--flops-only", "--as-notebook"]
    assert f"python scripts/bench.py {' '.join(arguments)}\n" in README
    command = [sys.executable, str(ROOT / "scripts" / "bench.py"), *arguments, "--output", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    printed = [line.rstrip() for line in done.stdout.splitlines() if not line.startswith("rows in")]
    assert "\n".join(printed) in README


@pytest.mark.parametrize("target", ["bench", "test"])
def test_the_two_commands_are_targets_of_make(target):
    assert f"$ make {target} " in README
    done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_page_on_the_benchmark_has_a_row_for_each_of_its_options_and_no_other():
    command = [sys.executable, str(ROOT / "scripts" / "bench.py"), "--help"]
    options = re.findall(r"^  (--[a-z0-9-]+)", subprocess.run(command, capture_output=True, text=True).stdout, re.M)
    page = (ROOT / "docs" / "benchmark.md").read_text()
    assert re.findall(r"^\| `(--[a-z0-9-]+)` \|", page, re.M) == options


def test_the_readme_and_its_page_name_no_option_that_the_benchmark_has_not():
    command = [sys.executable, str(ROOT / "scripts" / "bench.py"), "--help"]
    options = set(re.findall(r"--[a-z0-9-]+", subprocess.run(command, capture_output=True, text=True).stdout))
    section = README.split("## The benchmark")[1].split("`scripts/comparisons/hugging_face.py`")[0]
    page = (ROOT / "docs" / "benchmark.md").read_text()
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", section + page)) <= options


TAG_ROWS = [(tag.name, tag.unit, tag.when) for tag in TAGS]


def test_the_readme_shows_the_table_of_tags():
    section = README.split("## Use it")[1].split("## How MFU")[0]
    assert re.findall(r"^\| `([a-z_/]+)` \| (.+?) \| (.+?) \|$", section, re.MULTILINE) == TAG_ROWS


def test_the_docstring_of_the_callback_shows_the_table_of_tags():
    lines = MFUCallback.__doc__.splitlines()
    first, _, last = (number for number, line in enumerate(lines) if line.startswith("    ==="))
    columns = [match.span() for match in re.finditer("=+", lines[first])]
    rows = [[line[start:end].strip(" `") for start, end in columns] for line in lines[first + 3 : last]]
    assert [tuple(row) for row in rows] == TAG_ROWS


def test_every_path_in_the_readmes_tour_exists():
    tour = README.split("reading order")[1].split("## Limits")[0]
    paths = re.findall(r"`([a-z_]+/[a-z_/.]*)`", tour)
    assert len(paths) > 8
    assert all((ROOT / path).exists() or (ROOT / "mfu_callback" / path).exists() for path in paths)
