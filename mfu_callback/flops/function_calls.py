"""Watches every call of a `torch.autograd.Function`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.autograd.function import _SingleLevelFunction

# ``Function.apply`` calls this base's; a name that was bound before (``scale = Scale.apply``) comes here too.
_BASE: Any = _SingleLevelFunction


class FunctionCalls:
    """Reports the calls of Functions while it is watching; nothing is put on the user's classes.

    Calls inside of torch.func's transforms are not reported.

    Args:
        around: Called with the class, its arguments, and a function that makes the call; returns what that returns.
    """

    def __init__(self, around: Callable[[type, tuple[Any, ...], dict[str, Any], Callable[[], Any]], Any]) -> None:
        self._around = around
        self._before: Any = None  # another counter's
        self._is_watching = False

    def resume(self) -> None:
        """Begin to report."""
        around = self._around
        before = self._before = vars(_BASE).get("apply")
        self._is_watching = True

        def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
            parent: Any = super(_BASE, cls)
            original = parent.apply if before is None else before.__get__(None, cls)
            return around(cls, args, kwargs, lambda: original(*args, **kwargs))

        _BASE.apply = classmethod(apply)

    def suspend(self) -> None:
        """Stop reporting."""
        if not self._is_watching:
            return
        if self._before is None:
            del _BASE.apply
        else:
            _BASE.apply = self._before
        self._is_watching = False
