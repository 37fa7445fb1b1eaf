"""Hands data from a process that a strategy spawns to the process that spawned it; the two share no objects."""

from __future__ import annotations

import json
import os
import tempfile
import weakref
from multiprocessing.context import get_spawning_popen
from pathlib import Path
from typing import Any
from uuid import uuid4


class Mailbox:
    """A file in which a spawned process leaves plain data for the process that made the mailbox.

    The file is there from `put` to `take`, and no longer than the mailbox in the process that made it. The copy that is
    pickled for a spawned process, and the one that a forked process has, are of the same file. Any other copy is a new
    and empty mailbox.

    Args:
        path: The file; a new one in the temporary directory by default.
        owner: The id of the process that takes; this one by default.
    """

    def __init__(self, path: Path | None = None, owner: int | None = None) -> None:
        self._path = _new_path() if path is None else path
        self._owner = os.getpid() if owner is None else owner
        weakref.finalize(self, _remove, self._path, self._owner)

    def __reduce__(self) -> tuple[Any, ...]:
        is_for_spawned = get_spawning_popen() is not None
        return Mailbox, ((self._path, self._owner) if is_for_spawned else ())

    def put(self, data: Any) -> None:
        """Leave data, in the place of data that was not taken yet.

        Args:
            data: Plain data, ready for JSON.

        Raises:
            OSError: If the file cannot be written.
        """
        part = _part_of(self._path)
        with open(part, "w", encoding="utf-8", opener=_open_for_this_user) as file:
            json.dump(data, file)
        part.replace(self._path)

    def take(self) -> Any | None:
        """The data that were put since the last time; None if there are none, and in every process but the owner."""
        if os.getpid() != self._owner:
            return None
        try:
            text = self._path.read_text(encoding="utf-8")
        except OSError:
            return None
        _remove(self._path, self._owner)
        return json.loads(text)


def _new_path() -> Path:
    try:
        directory = tempfile.gettempdir()
    except FileNotFoundError:  # no directory can be written to; then put says so, if it is ever called
        directory = os.curdir
    return Path(directory, f"mfu_callback-{uuid4().hex}.json")


def _part_of(path: Path) -> Path:
    """The file that becomes the other once it is complete."""
    return path.with_suffix(".part")


def _open_for_this_user(path: str, flags: int) -> int:
    return os.open(path, flags, mode=0o600)


def _remove(path: Path, owner: int) -> None:
    if os.getpid() != owner:  # a forked process, whose copy of the mailbox ends before its parent has taken
        return
    for file in (path, _part_of(path)):
        try:
            file.unlink(missing_ok=True)
        except OSError:  # not worth an error: the system empties its temporary directory
            return
