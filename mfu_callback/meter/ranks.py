"""The processes of a run, as far as measuring needs them."""

from __future__ import annotations

import platform
from collections.abc import Sequence
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

    def broadcast(self, value: Any) -> Any:
        """The value of the first process."""


def exchanged(totals: Totals, ranks: Ranks, device: torch.device) -> list[Totals]:
    """The totals of all ranks, in their order.

    Args:
        totals: Those of this rank.
        ranks: The processes, more than one.
        device: The device that the processes exchange tensors on.
    """
    # MPS has no float64; everywhere else the counts of long runs need it.
    dtype = torch.float32 if device.type == "mps" else torch.float64
    rows = ranks.gather(torch.tensor(totals.as_row(), dtype=dtype, device=device))
    return [Totals.from_row(row) for row in rows.tolist()]


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
