"""Lets tensor subclasses be made while a dispatch mode is on."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

_TENSOR: Any = torch.Tensor


class SubclassConstructors:
    """Makes tensors of a subclass of `torch.Tensor` without any dispatch mode, while it is watching.

    Under a mode, ``Subclass(tensor)`` and ``Subclass()`` raise in torch ("the raw Tensor object is already associated
    to a python object"): `torch.nn.attention.bias.causal_lower_right` is one that models call in their forward. In an
    older torch so does `torch.Tensor.as_subclass`, with which every function of torch ends that is given a subclass.
    """

    def __init__(self) -> None:
        self._replaced: tuple[str, ...] = ()

    def resume(self) -> None:
        """Begin to watch."""
        if "__new__" in vars(_TENSOR):  # another counter is watching already
            return
        original = _TENSOR.__new__

        def new(cls: type, *args: Any, **kwargs: Any) -> Any:
            if cls is torch.Tensor:
                return original(cls, *args, **kwargs)
            with _disable_current_modes():
                return original(cls, *args, **kwargs)

        _TENSOR.__new__ = new
        self._replaced = ("__new__",)
        if not _can_be_views_under_modes():
            _TENSOR.as_subclass = _without_modes(_TENSOR.as_subclass)
            self._replaced += ("as_subclass",)

    def suspend(self) -> None:
        """Stop watching."""
        for name in self._replaced:
            delattr(_TENSOR, name)
        self._replaced = ()


@cache
def _can_be_views_under_modes() -> bool:
    class Plain(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

    try:
        with Plain():  # type: ignore[no-untyped-call]
            torch.empty(0).as_subclass(torch.nn.Parameter)
    except RuntimeError:
        return False
    return True


def _without_modes(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def without_modes(*args: Any, **kwargs: Any) -> Any:
        with _disable_current_modes():
            return method(*args, **kwargs)

    return without_modes
