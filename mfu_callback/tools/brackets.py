"""Wrappers that are put around methods of single objects for a while, and taken off again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Function = Callable[..., Any]


class Brackets:
    """Keeps account of wrapped methods, so that all of them can be unwrapped whatever happens."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def put(self, owner: object, method: str, wrap: Callable[[Function], Function]) -> Callable[[], None]:
        """Replace ``owner.method`` by ``wrap(owner.method)`` on this one object.

        Args:
            owner: The object; its class is not touched.
            method: The method's name.
            wrap: Makes the wrapper from what is there now.

        Returns:
            What takes this one off again.
        """
        namespace = vars(owner)
        was_own, original = method in namespace, getattr(owner, method)
        wrapper = namespace[method] = wrap(original)

        def undo() -> None:
            if namespace.get(method) is not wrapper:  # taken off already, or wrapped once more by someone else
                return
            if was_own:
                namespace[method] = original
            else:
                del namespace[method]

        self._undo.append(undo)
        return undo

    def call_at_removal(self, undo: Callable[[], None]) -> None:
        """Have something else undone with the brackets."""
        self._undo.append(undo)

    def remove(self) -> None:
        """Take everything off, the last first."""
        while self._undo:
            self._undo.pop()()
