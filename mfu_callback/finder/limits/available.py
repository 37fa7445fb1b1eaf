"""The memory that this process can still allocate."""

from __future__ import annotations

import psutil

from mfu_callback.tools.host_memory import control_group_memory

_FREE_SHARE = 0.8  # of the available memory: the default budget of runs on a CPU


def default_budget_bytes(processes: int = 1) -> int:
    """The default budget of a process: its share of 80 % of the available memory.

    Args:
        processes: The number of processes on this machine that share its memory.
    """
    return int(_FREE_SHARE * available_bytes()) // processes


def available_bytes() -> int:
    """The available memory of the system, or of a control group of this process if that is less."""
    in_groups = [max(0, limit - use) for limit, use in control_group_memory()]
    return min([int(psutil.virtual_memory().available), *in_groups])
