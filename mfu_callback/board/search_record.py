"""Writes the record of a run that has a search for the batch size, and nothing else that is measured."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mfu_callback.board.event_writers import is_of_tensorboard
from mfu_callback.board.facts import FoundBatchSize
from mfu_callback.board.record import record_of_search
from mfu_callback.report.summary_file import write_summary


def write_search(found: FoundBatchSize, directory: Path | None, event_writers: Iterable[Any]) -> None:
    """Write the record to ``mfu_summary.json`` and for TensorBoard's tab.

    Args:
        found: The result of the search.
        directory: The run's directory; None writes no file.
        event_writers: The writers of the run's event files.

    Raises:
        OSError: If a file cannot be written.
    """
    record = record_of_search(found)
    write_summary(record, directory)
    for writer in filter(is_of_tensorboard, event_writers):
        from mfu_callback.board.run_writer import write_record

        write_record(writer, record, step=0)
        writer.flush()
