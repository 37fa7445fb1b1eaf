"""Lets tensor subclasses be constructed while a dispatch mode is on."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

_TENSOR: Any = torch.Tensor


class SubclassConstructors:
    """Calls the constructor of a subclass of `torch.Tensor` without any dispatch mode, while it is watching.

    Under a mode, ``Subclass(tensor)`` and ``Subclass()`` raise in torch ("the raw Tensor object is already associated
    to a python object"): `torch.nn.attention.bias.causal_lower_right` is one that models call in their forward.
    """

    def __init__(self) -> None:
        self._is_watching = False

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
        self._is_watching = True

    def suspend(self) -> None:
        """Stop watching."""
        if self._is_watching:
            del _TENSOR.__new__
            self._is_watching = False
