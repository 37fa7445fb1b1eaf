"""Watches every call of a `torch.autograd.Function`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.autograd.function import _SingleLevelFunction

# ``Function.apply`` calls this base's; a name that was bound before (``scale = Scale.apply``) comes here too.
_BASE: Any = _SingleLevelFunction

Around = Callable[[type, tuple[Any, ...], dict[str, Any], Callable[[], Any]], Any]
_watching: list[Around] = []  # of all counters, the outermost first


class FunctionCalls:
    """Reports the calls of Functions while it is watching; nothing is put on the user's classes.

    Calls inside of torch.func's transforms are not reported.

    Args:
        around: Called with the class, its arguments, and a function that makes the call; returns what that returns.
    """

    def __init__(self, around: Around) -> None:
        self._around = around

    def resume(self) -> None:
        """Begin to report."""
        _watching.append(self._around)
        _BASE.apply = classmethod(_apply)

    def suspend(self) -> None:
        """Stop reporting."""
        if self._around in _watching:
            _watching.remove(self._around)
        if not _watching and "apply" in vars(_BASE):
            del _BASE.apply


def _apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
    parent: Any = super(_BASE, cls)

    def call(watching: list[Around]) -> Any:
        if not watching:
            return parent.apply(*args, **kwargs)
        return watching[0](cls, args, kwargs, lambda: call(watching[1:]))

    return call(list(_watching))
