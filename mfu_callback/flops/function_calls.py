"""Watches every call of a `torch.autograd.Function`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.autograd import Function

_FUNCTION: Any = Function


class FunctionCalls:
    """Reports the calls of ``Function.apply`` while it is watching; nothing is put on the user's classes.

    Args:
        around: Called with the class, its arguments, and a function that makes the call; returns what that returns.
    """

    def __init__(self, around: Callable[[type, tuple[Any, ...], dict[str, Any], Callable[[], Any]], Any]) -> None:
        self._around = around
        self._original: Any = None

    def resume(self) -> None:
        """Begin to report."""
        original = self._original = vars(_FUNCTION)["apply"]
        around = self._around

        def apply(cls: type, *args: Any, **kwargs: Any) -> Any:
            return around(cls, args, kwargs, lambda: original.__get__(None, cls)(*args, **kwargs))

        _FUNCTION.apply = classmethod(apply)

    def suspend(self) -> None:
        """Stop reporting."""
        if self._original is not None:
            _FUNCTION.apply = self._original
            self._original = None
