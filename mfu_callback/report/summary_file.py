"""Writes ``mfu_summary.json`` into the directory of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from mfu_callback.logs.names import SUMMARY_FILE


def write_summary(record: Mapping[str, Any], directory: Path | None) -> None:
    """Write a run's record to ``mfu_summary.json``.

    The file of an earlier run in the same directory is kept under the next free name: ``mfu_summary_1.json`` is that of
    the first run, and so on.

    Args:
        record: The run's figures and facts (`mfu_callback.board.record.record_of`).
        directory: The directory of the file; None writes nothing.

    Raises:
        OSError: If the file cannot be written.
    """
    if directory is None:
        return
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, indent=2, default=str) + "\n"
    file = directory / SUMMARY_FILE
    while True:
        try:
            with file.open("x", encoding="utf-8") as opened:  # fails where another run has just written its own
                opened.write(text)
                return
        except FileExistsError:
            _set_aside(file)


def _set_aside(file: Path) -> None:
    names = (file.with_stem(f"{file.stem}_{number}") for number in count(1))
    aside = next(name for name in names if _is_taken_now(name))
    try:
        file.replace(aside)
    except FileNotFoundError:  # another run has set it aside
        with suppress(OSError):
            aside.unlink()


def _is_taken_now(name: Path) -> bool:
    """Take a free name, so that two runs that end at once get different ones."""
    try:
        name.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
