"""Knows the autograd nodes whose backward is not counted operator by operator, and what counts instead."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from mfu_callback.flops.passes import current_task, in_backward, next_node_number
from mfu_callback.flops.threads import OwnThread


@dataclass(slots=True, eq=False)
class Backward:
    """The gradients of one call whose FLOPs a formula gives.

    Attributes:
        flops: Their FLOPs.
        operator: What was called.
        dtype: The name of the dtype that it multiplies.
        rule: Who gives the formula.
    """

    flops: int
    operator: str
    dtype: str
    rule: str
    _counted_in: set[int] = field(default_factory=set)  # numbers of backward passes

    def is_first_in(self, task: int) -> bool:
        """Whether this backward pass has not run it before; from now on it has."""
        if task in self._counted_in:
            return False
        self._counted_in.add(task)
        return True


class ReplacedNodes:
    """Autograd nodes, by their sequence numbers, whose operators in backward are not counted themselves.

    The numbers are those of the thread that counts.
    """

    def __init__(self) -> None:
        self._nodes: dict[int, Backward | None] = {}
        self._known_up_to = 0  # the number of the next node after the last operator
        self._thread = OwnThread()
        self.in_function = 0  # how many Functions of the user's are running, whose backward is theirs to write

    def enter(self) -> None:
        """Take the numbers of the running thread."""
        self._thread.enter()

    def __contains__(self, number: object) -> bool:
        return number in self._nodes

    def hide(self, numbers: Iterable[int], backward: Backward | None = None) -> None:
        """Count ``backward``, or nothing, in place of the operators that run in the backward of these nodes."""
        self._nodes.update(dict.fromkeys(numbers, backward))

    def own(self) -> range:
        """The node of the operator that has just run; empty if autograd does not follow it.

        An operator's node exists before the operator runs; so since the operator before it, a node is new. Inside of a
        Function the new node is the Function's.
        """
        number = next_node_number()
        is_new = self._thread.is_running and not self.in_function and number > self._known_up_to
        return range(number - 1, number) if is_new else range(0)

    def operator_ended(self) -> None:
        """Record that an operator has run outside of a backward pass."""
        if self._thread.is_running:
            self._known_up_to = next_node_number()

    def due(self) -> Backward | None:
        """What is to be counted now: the running node is the first of its call in this backward pass."""
        if not self._nodes or not in_backward():
            return None
        node = torch._C._current_autograd_node()
        backward = None if node is None else self._nodes.get(node._sequence_nr())
        return backward if backward is not None and backward.is_first_in(current_task()) else None
