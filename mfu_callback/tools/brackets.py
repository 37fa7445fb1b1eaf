"""Brackets: wrappers that are put on a method of one object for a while and then removed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Function = Callable[..., Any]


class Brackets:
    """Records every wrapped method, so that all of them can be unwrapped, even after an error."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def put(self, owner: object, method: str, wrap: Callable[[Function], Function]) -> Callable[[], None]:
        """Replace ``owner.method`` by ``wrap(owner.method)`` on this one object.

        Args:
            owner: The object; its class is not touched.
            method: The method's name.
            wrap: Makes the wrapper from the current method.

        Returns:
            A function that removes this bracket.
        """
        namespace = vars(owner)
        was_own, original = method in namespace, getattr(owner, method)
        wrapper = namespace[method] = wrap(original)

        def undo() -> None:
            if namespace.get(method) is not wrapper:  # removed already, or wrapped again by other code
                return
            if was_own:
                namespace[method] = original
            else:
                del namespace[method]

        self._undo.append(undo)
        return undo

    def call_at_removal(self, undo: Callable[[], None]) -> None:
        """Register another function for `remove` to call."""
        self._undo.append(undo)

    def remove(self) -> None:
        """Remove all brackets, the latest first."""
        while self._undo:
            self._undo.pop()()
