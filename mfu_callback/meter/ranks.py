"""The processes of a run, as far as measuring needs them."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist

from mfu_callback.meter.totals import Totals


class Ranks(Protocol):
    """The processes that train together; all of them call `gather` and `broadcast` at the same point."""

    @property
    def size(self) -> int:
        """Number of processes."""

    @property
    def index(self) -> int:
        """The number of this process."""

    @property
    def on_this_machine(self) -> int:
        """Number of processes on this machine."""

    def gather(self, row: torch.Tensor) -> torch.Tensor:
        """The rows of all processes, of shape (ranks, numbers), from this process's row of shape (numbers,)."""

    def begin_gather(self, row: torch.Tensor, device: torch.device) -> Callable[[], torch.Tensor]:
        """Start to gather the rows of all processes.

        Args:
            row: This process's row, of shape (numbers,), on the host.
            device: The device that the processes exchange tensors on.

        Returns:
            A function that returns what `gather` does, and waits for the processes that have not come to this yet.
        """

    def broadcast(self, value: Any) -> Any:
        """The value of the first process."""


def exchanged(totals: Totals, ranks: Ranks, device: torch.device) -> list[Totals]:
    """The totals of all ranks, in their order.

    Args:
        totals: Those of this rank.
        ranks: The processes, more than one.
        device: The device that the processes exchange tensors on.
    """
    rows = ranks.gather(row_of(totals, device).to(device))
    return [Totals.from_row(row) for row in rows.tolist()]


def row_of(totals: Totals, device: torch.device) -> torch.Tensor:
    """The totals as a row of numbers on the host, in a dtype that a device has."""
    # MPS has no float64; everywhere else the counts of long runs need it.
    dtype = torch.float32 if device.type == "mps" else torch.float64
    return torch.tensor(totals.as_row(), dtype=dtype)


def hosts_of(ranks: int) -> Sequence[str]:
    """The name of each rank's machine; empty for a single rank.

    Args:
        ranks: Number of ranks.
    """
    if ranks == 1 or not (dist.is_available() and dist.is_initialized()):
        return []
    hosts = [""] * ranks
    dist.all_gather_object(hosts, platform.node())
    return hosts
