"""Reads runs from the files of Lightning's CSVLogger."""

from __future__ import annotations

import csv
from contextlib import suppress
from pathlib import Path

from mfu_callback.logs.points import Points
from mfu_callback.logs.run_log import RunLog, own_tag

FILE = "metrics.csv"


def read_csv_file(name: str, file: Path) -> RunLog:
    """Read one run from its ``metrics.csv``.

    Args:
        name: Name of the run.
        file: The file.
    """
    points, problems = Points(), []
    try:
        with file.open(newline="", encoding="utf-8", errors="replace") as opened:
            rows = csv.DictReader(line.replace("\0", "") for line in opened)  # csv of Python 3.10 refuses them
            if "step" not in (rows.fieldnames or ()):
                problems.append(f"{file.name} has no column named step")
            for row in rows:
                _add(points, row)
    except (OSError, csv.Error) as error:
        problems.append(f"{file.name} cannot be read ({error})")
    return RunLog(name=name, scalars=points.series(), problems=tuple(problems))


def _add(points: Points, row: dict[str | None, str | None]) -> None:
    for column, text in row.items():
        tag = None if column is None else own_tag(column)
        if tag is not None and text:
            with suppress(ValueError, TypeError):  # the line is cut off
                points.add(tag, int(float(row["step"] or "")), float(text), None)
