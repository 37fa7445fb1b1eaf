"""Finds the pass of a training step in which an operator runs."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Container
from enum import Enum
from types import FrameType

import torch

_CHECKPOINT = "torch.utils.checkpoint"
_tasks_that_create_graphs: deque[int] = deque(maxlen=256)  # numbers of backward passes


class Pass(Enum):
    """The pass under which an operator's FLOPs are filed."""

    FORWARD = "forward"
    BACKWARD = "backward"
    RECOMPUTED = "recomputed"


def current_task() -> int:
    """The number of the backward pass that autograd is running in this thread, or -1."""
    return int(torch._C._current_graph_task_id())


def in_backward() -> bool:
    """Whether autograd is running a backward pass in this thread."""
    return current_task() != -1


def next_node_number() -> int:
    """The sequence number that the next autograd node of this thread gets."""
    return int(torch.autograd._get_sequence_nr())  # type: ignore[attr-defined]


def current_pass(hidden: Container[int] = ()) -> Pass | None:
    """The pass that is running now in this thread.

    Args:
        hidden: Sequence numbers of autograd nodes whose backward is not counted.

    Returns:
        The pass, or None for the backward of a hidden node.
    """
    if not in_backward():
        return Pass.FORWARD
    if torch.is_grad_enabled() and recomputes_for_first_graph():
        return Pass.RECOMPUTED
    node = torch._C._current_autograd_node()
    number = -1 if node is None else node._sequence_nr()
    if number in hidden:
        return None
    if not torch.is_grad_enabled():
        return Pass.BACKWARD
    # Gradients are enabled if a user's own Function or a reentrant checkpoint runs its forward again. A backward pass
    # with ``create_graph=True`` enables them in torch's own nodes too, such as that of the loss, which runs first.
    if not isinstance(node, torch.autograd.function.BackwardCFunction):
        _tasks_that_create_graphs.append(current_task())
        return Pass.BACKWARD
    return Pass.BACKWARD if current_task() in _tasks_that_create_graphs else Pass.RECOMPUTED


def recomputes_for_first_graph() -> bool:
    """Whether a non-reentrant checkpoint is running its forward again, for the graph of the first run."""
    top_hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    if top_hooks is None:
        return _is_checkpoint_unpacking()
    hooks = top_hooks(True)
    return hooks is not None and getattr(hooks[0], "__module__", None) == _CHECKPOINT


def _is_checkpoint_unpacking() -> bool:
    """Whether autograd asks a checkpoint for a tensor; found among the callers, where torch does not tell its hooks."""
    caller: FrameType | None = sys._getframe(1)
    while caller is not None:
        if caller.f_code.co_name == "unpack_hook" and caller.f_globals.get("__name__") == _CHECKPOINT:
            return True
        caller = caller.f_back
    return False
