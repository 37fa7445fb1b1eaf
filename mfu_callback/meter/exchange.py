"""What ranks tell each other of their windows, in such a way that none waits for another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch

from mfu_callback.meter.ranks import Ranks, row_of
from mfu_callback.meter.totals import Totals

_Place = TypeVar("_Place")


class Exchange(Generic[_Place]):
    """Gathers the totals of a window while the next one runs, where they are read.

    All ranks call `begin` and `take` in turn, at the same points.

    Args:
        ranks: The processes.
        device: The device that they exchange tensors on.
    """

    def __init__(self, ranks: Ranks, device: torch.device) -> None:
        self._ranks = ranks
        self._device = device
        self._begun: tuple[_Place, Callable[[], torch.Tensor]] | None = None

    def begin(self, totals: Totals, place: _Place) -> None:
        """Send this rank's totals of a window.

        Args:
            totals: The totals.
            place: Where the window ended, which `take` returns with the totals.
        """
        self._begun = place, self._ranks.begin_gather(row_of(totals, self._device), self._device)

    def take(self) -> tuple[_Place, list[Totals]] | None:
        """The totals of all ranks of the window that was begun last, and its place; None if there is none."""
        begun, self._begun = self._begun, None
        if begun is None:
            return None
        place, read = begun
        return place, [Totals.from_row(row) for row in read().tolist()]
