"""Whether an optimizer is stepping: its own matmuls (Muon's) are not the model's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook


class SteppingOptimizers:
    """Counts the optimizers that are stepping, by global hooks.

    An optimizer may run the model's forward as its closure. That forward is the model's again.
    """

    def __init__(self) -> None:
        self._stepping = 0
        self._around_forward = 0  # of those, which run the forward as their closure

    @contextmanager
    def watched(self) -> Iterator[None]:
        """A context in which steps are seen."""
        hooks = (register_optimizer_step_pre_hook(self._begin), register_optimizer_step_post_hook(self._end))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def forward_inside(self) -> Iterator[None]:
        """A context of a forward: whatever optimizer is stepping has called it."""
        before, self._around_forward = self._around_forward, self._stepping
        try:
            yield
        finally:
            self._around_forward = before

    @property
    def compute(self) -> bool:
        """Whether what runs now is an optimizer's own arithmetic."""
        return self._stepping > self._around_forward and not torch.is_grad_enabled()

    def _begin(self, *_: Any) -> None:
        self._stepping += 1

    def _end(self, *_: Any) -> None:
        self._stepping -= 1
