"""What is wrong with the event files that TensorBoard reads; it goes on without a word where one is damaged."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock, Thread

from mfu_callback.logs.directory import event_files_below
from mfu_callback.logs.printable import printable
from mfu_callback.logs.records import CutOffError, DamagedFileError, records

_WAIT_SEC = 20.0  # between two looks at all files
_STILL_WRITING_SEC = 60.0  # a file that was changed since may end in the middle of a record


@dataclass(slots=True)
class _Looked:
    offset: int = 0
    size: int = -1
    problem: str | None = None


class FileHealth:
    """Looks at the files in a thread of its own, at each byte once.

    Args:
        directory: Where TensorBoard looks for runs; None where that is no directory of this machine.
    """

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._looked: dict[Path, _Looked] = {}
        self._lock = Lock()
        self._thread: Thread | None = None
        self._last = -_WAIT_SEC

    def problems(self) -> list[str]:
        """What is known by now; asking starts another look if the last one was a while ago."""
        with self._lock:
            is_due = time.monotonic() - self._last >= _WAIT_SEC
            if self._directory is not None and is_due and (self._thread is None or not self._thread.is_alive()):
                self._thread = Thread(target=self.look, daemon=True)
                self._thread.start()
            known = sorted((path, looked.problem) for path, looked in self._looked.items() if looked.problem)
        return [f"{self._name(path)} {problem}" for path, problem in known]

    def look(self) -> None:
        """Look at what has changed."""
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
                    looked.size = status.st_size if is_old else _Looked().size  # one that is new is looked at again
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
    """What is wrong with a file from where it was looked at last."""
    try:
        for offset, _ in records(path, looked.offset):
            looked.offset = offset
    except CutOffError as error:
        return f"{error}; TensorBoard shows what comes before" if is_old else None
    except DamagedFileError as error:
        return f"{error}; TensorBoard shows what comes before"
    return "is empty" if is_old and not looked.offset else None
