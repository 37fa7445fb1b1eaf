"""Runs the code that stands on a page of the docs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def printed_by(block: str, directory: Path) -> str:
    """What a block of Python prints in a process of its own, which has to end well.

    Args:
        block: The code.
        directory: Where it runs.
    """
    done = subprocess.run(
        [sys.executable, "-c", block],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"PYTHONPATH": ":".join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
