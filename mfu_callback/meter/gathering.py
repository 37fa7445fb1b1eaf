"""Gathers a row of numbers from all processes while they go on computing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from mfu_callback.tools import accelerators


def begin_gather(row: torch.Tensor, device: torch.device) -> Callable[[], torch.Tensor]:
    """Start to gather the rows of all processes of the default group, all of which call it at the same point.

    On an accelerator, everything happens on a stream of its own: neither the host nor the stream that trains waits. Not
    yet run on hardware; written against the documentation of `torch.distributed` and of CUDA streams.

    Args:
        row: The row of this process, of shape (numbers,), on the host.
        device: The device that the processes exchange tensors on.

    Returns:
        A function that returns the rows, of shape (processes, numbers), on the host. It waits for what is not there
        yet: for nothing, if all processes have come further by a collective of theirs.
    """
    if device.type == "cpu":
        rows, work = _gathered(row)

        def read() -> torch.Tensor:
            work.wait()
            return torch.stack(rows)

        return read
    with accelerators.side_stream(device):
        rows, work = _gathered(row.pin_memory().to(device, non_blocking=True))
        work.wait()  # on this stream, not on the host
        gathered = accelerators.pinned(len(rows), len(row), dtype=row.dtype)
        gathered.copy_(torch.stack(rows), non_blocking=True)
        copied = accelerators.event(device)
        copied.record()

    def read_copy() -> torch.Tensor:
        copied.synchronize()
        return gathered

    return read_copy


def _gathered(row: torch.Tensor) -> tuple[list[torch.Tensor], Any]:
    rows = [torch.empty_like(row) for _ in range(dist.get_world_size())]
    return rows, dist.all_gather(rows, row, async_op=True)
