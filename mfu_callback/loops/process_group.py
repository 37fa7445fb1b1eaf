"""The processes of torch's process group."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from mfu_callback.meter.gathering import begin_gather


class ProcessGroup:
    """The processes of torch's default group, or this one alone (`mfu_callback.meter.ranks.Ranks`)."""

    @property
    def size(self) -> int:
        """Number of processes."""
        return dist.get_world_size() if _is_there() else 1

    @property
    def index(self) -> int:
        """The number of this process."""
        return dist.get_rank() if _is_there() else 0

    @property
    def on_this_machine(self) -> int:
        """Number of processes on this machine, as the launcher says; all of them if it does not."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", self.size))

    def gather(self, row: torch.Tensor) -> torch.Tensor:
        """The rows of all processes, of shape (ranks, numbers), from this process's row of shape (numbers,)."""
        rows = [torch.empty_like(row) for _ in range(self.size)]
        dist.all_gather(rows, row)
        return torch.stack(rows)

    def begin_gather(self, row: torch.Tensor, device: torch.device) -> Callable[[], torch.Tensor]:
        """Start to gather the rows of all processes; the function that is returned gives them."""
        return begin_gather(row, device)

    def broadcast(self, value: Any) -> Any:
        """The value of the first process."""
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]


def _is_there() -> bool:
    return dist.is_available() and dist.is_initialized()
