"""Watches every call of a `torch.autograd.Function`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.autograd.function import Function, _SingleLevelFunction

_OWN: Any = vars(Function)["apply"]
# Where ``Function.apply`` is written in Python, it calls this base's, and a name that was bound before
# (``scale = Scale.apply``) comes here too. From torch 2.14 on it is written in C: such a name is not seen there.
_IS_PYTHON = isinstance(_OWN, classmethod)
_BASE: Any = _SingleLevelFunction if _IS_PYTHON else Function

Around = Callable[[type, tuple[Any, ...], dict[str, Any], Callable[[], Any]], Any]
_watching: list[Around] = []  # of all counters, the outermost first


class FunctionCalls:
    """Reports the calls of Functions while it is watching; nothing is put on the user's classes.

    Calls inside of torch.func's transforms are not reported, nor, from torch 2.14 on, those of a name that was bound
    to a Function's `apply` before it is watched.

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
            if _IS_PYTHON:
                del _BASE.apply
            else:
                _BASE.apply = _OWN


def _apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
    parent: Any = super(_BASE, cls)

    def call(watching: list[Around]) -> Any:
        if not watching:
            return parent.apply(*args, **kwargs)
        return watching[0](cls, args, kwargs, lambda: call(watching[1:]))

    return call(list(_watching))
