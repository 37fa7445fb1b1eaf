"""When a batch is counted again although its shape was counted before, to see whether it still does the same work."""

from __future__ import annotations

import random

_FIRST = 64  # steps before the first one after the warm-up
_LEAST, _SHARE = 16, 0.25  # steps until the next: at least, and of the steps so far
_SPREAD = 9  # further steps that are drawn by lot, so that no pattern of the run's is missed
_SURE, _OFTEN, _SELDOM = 16, 4, 16  # counts after which fewer are made, and the mean intervals before and after
_SMALL_ERROR = 0.01


class Recounts:
    """Chooses steps: each of the warm-up, which is not timed anyway, then ever fewer, and more where the work varies.

    Intervals are drawn by lot, so that a pattern in the steps (a network that is trained in every fifth) is seen as
    often as it occurs.

    Attributes:
        at: The number of ended steps at which the next one begins.
    """

    def __init__(self) -> None:
        self.at = 0
        self._is_warm = False
        self._random = random.Random(0)  # not the user's

    def is_due(self, ended: int, *, is_warm: bool) -> bool:
        """Whether a step is chosen, after as many that ended; none of those right after the warm-up is."""
        if is_warm and not self._is_warm:
            self._is_warm, self.at = True, ended + _FIRST
        return ended >= self.at

    def choose_next(self, ended: int, *, vary: bool, counts: int, error: float) -> None:
        """Choose the next step, where one is counted.

        Args:
            ended: Number of steps that have ended.
            vary: Whether batches of the shape in hand do unequal work.
            counts: How many of them were counted.
            error: Relative error of their mean.
        """
        if not self._is_warm:
            self.at = ended + 1
        elif vary and (counts < _SURE or error > _SMALL_ERROR):
            self.at = ended + self._random.randint(1, 2 * (_OFTEN if counts < _SURE else _SELDOM) - 1)
        else:
            self.at = ended + max(_LEAST, round(_SHARE * ended)) + self._random.randint(0, _SPREAD)
