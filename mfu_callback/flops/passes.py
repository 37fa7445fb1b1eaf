"""Which pass of a training step an operator belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import torch


class Pass(Enum):
    """What an operator's FLOPs are filed under."""

    FORWARD = "forward"
    BACKWARD = "backward"
    RECOMPUTED = "recomputed"


def in_backward() -> bool:
    """Whether autograd is running a backward in this thread."""
    return torch._C._current_graph_task_id() != -1


def next_node_number() -> int:
    """The sequence number that the next autograd node of this thread gets."""
    return int(torch.autograd._get_sequence_nr())  # type: ignore[attr-defined]


def current_pass(hidden: Sequence[range] = ()) -> Pass | None:
    """The pass that is running now in this thread.

    Args:
        hidden: Ranges of the sequence numbers of autograd nodes whose backward is not to be counted.

    Returns:
        The pass, or None for the backward of a hidden node.
    """
    if not in_backward():
        return Pass.FORWARD
    node = torch._C._current_autograd_node()
    number = -1 if node is None else node._sequence_nr()
    if any(number in numbers for numbers in hidden):
        return None
    return Pass.RECOMPUTED if torch.is_grad_enabled() and _is_recomputing(node) else Pass.BACKWARD


def _is_recomputing(node: object) -> bool:
    """Whether a forward runs again inside a backward: by activation checkpointing, or by a user's own function.

    A backward through a backward (``create_graph=True``) has gradients enabled too, but runs in torch's own nodes.
    """
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
    if hooks is not None and getattr(hooks[0], "__module__", None) == "torch.utils.checkpoint":
        return True
    return isinstance(node, torch.autograd.function.BackwardCFunction)
