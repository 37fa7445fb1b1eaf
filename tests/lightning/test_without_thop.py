"""Runs where thop cannot be imported: it is missing, or what it imports is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import fit_without
from tests.helpers.runs import TINY_FLOPS

SCRIPT = Path(fit_without.__file__)
ROOT = SCRIPT.parents[2]


@cache
def run(*broken: str) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", str(SCRIPT), *broken]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("package", ["thop", "distutils"])
def test_the_count_is_the_same_and_the_log_says_why_thop_has_no_part_in_it(package):
    whole, seen = run(), run(package)
    assert (whole["is there"], seen["is there"]) == (True, False)
    for model in ("gpt", "images"):
        assert seen[model] == whole[model] | {"thop": 0}
        assert whole[model]["thop"] > 0
        assert whole[model]["complete"]
    assert seen["gpt"]["forward"] == TINY_FLOPS
    assert whole["said"] == []
    assert len(seen["said"]) == 2  # a line for each of the two fits
    for line in seen["said"]:
        assert line.startswith(f"MFUCallback: thop could not be imported (ImportError: {package}")
        assert "which give the same FLOPs for them" in line


@pytest.mark.parametrize(("where", "option"), [("callback", "flops"), ("counter", "counter")])
def test_exactly_thops_figures_are_refused_without_thop(where, option):
    assert run()[where] is None
    error = run("thop")[where]
    assert error.startswith(f"{option}='thop-modules' is what thop itself counts, and thop could not be imported (Imp")
    assert f"Or use {option}='thop'" in error
