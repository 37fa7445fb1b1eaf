"""The memory that this process can still allocate."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path, PurePosixPath

import psutil

_FREE_SHARE = 0.8  # of the available memory: the default budget of runs on a CPU
_ROOT = Path("/sys/fs/cgroup")
# The files of a control group's limit and current use: version 2, then version 1.
_FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))


def default_budget_bytes(processes: int = 1) -> int:
    """The default budget of a process: its share of 80 % of the available memory.

    Args:
        processes: The number of processes on this machine that share its memory.
    """
    return int(_FREE_SHARE * available_bytes()) // processes


def available_bytes() -> int:
    """The available memory of the system, or of a control group of this process if that is less."""
    return min([int(psutil.virtual_memory().available), *_cgroup_available()])


def _cgroup_available(root: Path = _ROOT, own: Path = Path("/proc/self/cgroup")) -> list[int]:
    """The bytes left in every control group, from the process's own up to the root."""
    available = []
    for directory in _cgroup_directories(root, own):
        for limit, use in _FILES:
            with suppress(OSError, ValueError):  # no such file, or "max": no limit
                available.append(int((directory / limit).read_text()) - int((directory / use).read_text()))
    return [max(0, size) for size in available]


def _cgroup_directories(root: Path, own: Path) -> set[Path]:
    # A line is "hierarchy:controllers:path" (cgroups(7)); version 2 leaves the controllers empty.
    directories = {root, root / "memory"}
    with suppress(OSError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "memory"):
                inside = PurePosixPath(path.lstrip("/"))
                directories |= {root / controllers / group for group in (inside, *inside.parents)}
    return directories
