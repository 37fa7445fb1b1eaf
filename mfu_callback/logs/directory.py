"""Reads all runs below a directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from mfu_callback.logs import csv_files
from mfu_callback.logs.names import SUMMARY_FILE
from mfu_callback.logs.printable import printable
from mfu_callback.logs.record_json import record_from
from mfu_callback.logs.run_log import RunLog

_EVENT_FILE = "tfevents"


def read_runs(directory: Path) -> list[RunLog]:
    """Read every run below a directory, with all of its points.

    A run is a directory with event files, a ``metrics.csv`` or, where another logger has the values, the record alone.

    Args:
        directory: Where to look.

    Raises:
        NotADirectoryError: If it is not a directory.
        ModuleNotFoundError: If there are event files and the packages that read them are not installed.
    """
    if not directory.is_dir():
        raise NotADirectoryError(f"{directory} is not a directory. Give the directory that the logger writes to.")
    return list(_runs(directory))


def event_files_below(directory: Path) -> Iterator[Path]:
    """The event files below a directory."""
    for parent, files in _walk(directory):
        yield from (parent / file for file in files if _EVENT_FILE in file)


def _runs(directory: Path) -> Iterator[RunLog]:
    for parent, files in _walk(directory):
        name = printable(parent.relative_to(directory).as_posix())
        event_files = [parent / file for file in files if _EVENT_FILE in file]
        if event_files:
            yield _with_summary(_read_event_files(name, event_files), parent)
        elif csv_files.FILE in files:
            yield _with_summary(csv_files.read_csv_file(name, parent / csv_files.FILE), parent)
        elif SUMMARY_FILE in files:
            yield _with_summary(RunLog(name=name, record_time=(parent / SUMMARY_FILE).stat().st_mtime), parent)


def _walk(directory: Path) -> Iterator[tuple[Path, list[str]]]:
    """Every directory and its files; a directory that several links lead to appears once."""
    seen: set[str] = set()
    for parent, directories, files in os.walk(directory, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            directories.clear()
            continue
        seen.add(real)
        directories.sort()
        yield Path(parent), sorted(files)


def _read_event_files(name: str, files: list[Path]) -> RunLog:
    if find_spec("tensorboard") is None or find_spec("google_crc32c") is None:
        raise ModuleNotFoundError(
            f"{files[0]} is a TensorBoard event file. To read it, run: pip install tensorboard google-crc32c"
        )
    from mfu_callback.logs.event_files import read_event_files

    return read_event_files(name, files)


def _with_summary(run: RunLog, directory: Path) -> RunLog:
    """The run, with the record from the file beside its log if the log has no record."""
    file = directory / SUMMARY_FILE
    if run.record is not None or not file.is_file():
        return run
    try:
        record = record_from(file.read_bytes())
    except OSError:
        record = None
    problem = () if record is not None else (f"{SUMMARY_FILE} cannot be read",)
    return replace(run, record=record, problems=run.problems + problem)
