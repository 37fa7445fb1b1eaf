"""Memory of this process and of the control groups that it is in, as Linux reports them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

_ROOT, _OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# The files of a control group's limit and current use: version 2, then version 1.
_FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))


def status_bytes(field: str) -> int:
    """One figure of this process's memory, in bytes; 0 if the kernel does not report it.

    Args:
        field: Its name in ``/proc/self/status`` (proc_pid_status(5)), such as "VmSwap".

    Raises:
        OSError: If the system has no such file.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":")), 0)


def control_group_memory(root: Path = _ROOT, own: Path = _OWN) -> Iterator[tuple[int, int]]:
    """The limit and the use, in bytes, of every control group that limits this process, up to the root.

    Args:
        root: Where control groups are mounted.
        own: The file that names the process's own.
    """
    for directory in _directories(root, own):
        for limit, use in _FILES:
            with suppress(OSError, ValueError):  # no such file, or "max": no limit
                yield int((directory / limit).read_text()), int((directory / use).read_text())


def _directories(root: Path, own: Path) -> set[Path]:
    # A line is "hierarchy:controllers:path" (cgroups(7)); version 2 leaves the controllers empty.
    directories = {root, root / "memory"}
    with suppress(OSError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "memory"):
                inside = PurePosixPath(path.lstrip("/"))
                directories |= {root / controllers / group for group in (inside, *inside.parents)}
    return directories
