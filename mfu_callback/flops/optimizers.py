"""Knows whether an optimizer is stepping: its own matmuls (Muon has some) are not model FLOPs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook


class SteppingOptimizers:
    """Counts the optimizers that are stepping, with global hooks.

    An optimizer may run the model's forward in its closure. That forward counts as model FLOPs.
    """

    def __init__(self) -> None:
        self._stepping = 0
        self._around_forward = 0  # how many of them run the forward in their closure

    @contextmanager
    def watched(self) -> Iterator[None]:
        """A context in which optimizer steps are seen."""
        hooks = (register_optimizer_step_pre_hook(self._begin), register_optimizer_step_post_hook(self._end))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def forward_inside(self) -> Iterator[None]:
        """A context for a forward: all optimizers that are stepping have called it from their closures."""
        before, self._around_forward = self._around_forward, self._stepping
        try:
            yield
        finally:
            self._around_forward = before

    @property
    def is_computing(self) -> bool:
        """Whether the code that runs now is an optimizer's own computation."""
        return self._stepping > self._around_forward and not torch.is_grad_enabled()

    def _begin(self, *_: Any) -> None:
        self._stepping += 1

    def _end(self, *_: Any) -> None:
        self._stepping -= 1
