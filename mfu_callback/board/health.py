"""Finds damaged event files, which TensorBoard skips without a message."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock, Thread

from mfu_callback.logs.directory import event_files_below
from mfu_callback.logs.printable import printable
from mfu_callback.logs.records import CutOffError, DamagedFileError, records

_WAIT_SEC = 20.0  # between two checks of all files
_STILL_WRITING_SEC = 60.0  # a file that changed within this time may end in the middle of a record


@dataclass(slots=True)
class _Looked:
    offset: int = 0
    size: int = -1
    problem: str | None = None


class FileHealth:
    """Checks the event files in a thread of its own, and reads each byte once.

    Args:
        directory: TensorBoard's log directory; None if it is not a directory of this machine.
    """

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._looked: dict[Path, _Looked] = {}
        self._lock = Lock()
        self._thread: Thread | None = None
        self._last = -_WAIT_SEC

    def problems(self) -> list[str]:
        """The problems found so far. Starts another check if the last one was a while ago."""
        with self._lock:
            is_due = time.monotonic() - self._last >= _WAIT_SEC
            if self._directory is not None and is_due and (self._thread is None or not self._thread.is_alive()):
                self._thread = Thread(target=self.look, daemon=True)
                self._thread.start()
            known = sorted((path, looked.problem) for path, looked in self._looked.items() if looked.problem)
        return [f"{self._name(path)} {problem}" for path, problem in known]

    def look(self) -> None:
        """Check the files that have changed."""
        assert self._directory is not None
        found: set[Path] = set()
        for path in event_files_below(self._directory):
            found.add(path)
            looked = replace(self._looked.get(path, _Looked()))
            try:
                status = path.stat()
                if status.st_size != looked.size or looked.problem:
                    is_old = time.time() - status.st_mtime > _STILL_WRITING_SEC
                    looked.problem = _look_at(path, looked, is_old=is_old)
                    looked.size = status.st_size if is_old else _Looked().size  # a recent file is checked again
            except OSError as error:
                looked.problem = f"cannot be read ({error})"
            with self._lock:
                self._looked[path] = looked
        with self._lock:
            for gone in self._looked.keys() - found:
                del self._looked[gone]
        self._last = time.monotonic()

    def _name(self, path: Path) -> str:
        return printable(str(path if self._directory is None else path.relative_to(self._directory).as_posix()))


def _look_at(path: Path, looked: _Looked, *, is_old: bool) -> str | None:
    """The problem of a file, read on from where the last check ended; None if there is none."""
    try:
        for offset, _ in records(path, looked.offset):
            looked.offset = offset
    except CutOffError as error:
        return f"{error}; TensorBoard shows what comes before" if is_old else None
    except DamagedFileError as error:
        return f"{error}; TensorBoard shows what comes before"
    return "is empty" if is_old and not looked.offset else None
