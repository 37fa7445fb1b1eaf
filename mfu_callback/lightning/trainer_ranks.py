"""The processes of a Trainer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from mfu_callback.meter.gathering import begin_gather

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


class TrainerRanks:
    """The processes of a Trainer, through its strategy (`mfu_callback.meter.ranks.Ranks`).

    Args:
        trainer: The Trainer.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    @property
    def size(self) -> int:
        """Number of processes."""
        return self._trainer.world_size

    @property
    def index(self) -> int:
        """The number of this process."""
        return self._trainer.global_rank

    @property
    def on_this_machine(self) -> int:
        """Number of processes on this machine."""
        return self._trainer.num_devices

    def gather(self, row: torch.Tensor) -> torch.Tensor:
        """The rows of all processes, of shape (ranks, numbers), from this process's row of shape (numbers,)."""
        return self._trainer.strategy.all_gather(row)

    def begin_gather(self, row: torch.Tensor, device: torch.device) -> Callable[[], torch.Tensor]:
        """Start to gather the rows of all processes; the function that is returned gives them."""
        if dist.is_available() and dist.is_initialized():
            return begin_gather(row, device)
        rows = self.gather(row.to(device))  # processes that torch has no group of, such as those of XLA
        return lambda: rows

    def broadcast(self, value: Any) -> Any:
        """The value of the first process."""
        return self._trainer.strategy.broadcast(value)
