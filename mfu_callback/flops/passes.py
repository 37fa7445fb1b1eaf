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


def current_task() -> int:
    """The number of the backward that autograd is running in this thread, or -1."""
    return int(torch._C._current_graph_task_id())


def in_backward() -> bool:
    """Whether autograd is running a backward in this thread."""
    return current_task() != -1


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
    if torch.is_grad_enabled() and recomputes_for_first_graph():
        return Pass.RECOMPUTED
    node = torch._C._current_autograd_node()
    number = -1 if node is None else node._sequence_nr()
    if any(number in numbers for numbers in hidden):
        return None
    # Gradients are enabled where a user's own function (or a checkpoint that is reentrant) runs its forward again. A
    # backward that is to have a backward itself (``create_graph=True``) has them too, but in torch's own nodes.
    by_python = isinstance(node, torch.autograd.function.BackwardCFunction)
    return Pass.RECOMPUTED if torch.is_grad_enabled() and by_python else Pass.BACKWARD


def recomputes_for_first_graph() -> bool:
    """Whether a checkpoint that is not reentrant runs a forward again, for the graph of the first one."""
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
    return hooks is not None and getattr(hooks[0], "__module__", None) == "torch.utils.checkpoint"
