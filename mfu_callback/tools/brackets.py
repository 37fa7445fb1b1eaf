"""Brackets: wrappers that are put on a method of one object for a while and then removed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

Function = Callable[..., Any]

# What undoes brackets that were to be removed while another bracket was on top of them, as two threads may have it.
_covered: WeakKeyDictionary[Function, Callable[[], None]] = WeakKeyDictionary()


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

        def restore() -> None:
            if was_own:
                namespace[method] = original
            else:
                del namespace[method]

        def undo() -> None:
            if namespace.get(method) is not wrapper:  # removed already, or wrapped again by other code
                _covered[wrapper] = restore
                return
            restore()
            while (covered := namespace.get(method)) is not None and covered in _covered:
                _covered.pop(covered)()

        self._undo.append(undo)
        return undo

    def put_on_class(self, owner: type, method: str, wrap: Callable[[Function], Function]) -> None:
        """Replace a method of a class, for all its objects.

        Args:
            owner: The class.
            method: The method's name.
            wrap: Makes the wrapper from the current function.
        """
        was_own, original = method in vars(owner), getattr(owner, method)
        wrapper = wrap(original)
        setattr(owner, method, wrapper)

        def undo() -> None:
            if vars(owner).get(method) is not wrapper:
                return
            if was_own:
                setattr(owner, method, original)
            else:
                delattr(owner, method)

        self._undo.append(undo)

    def call_at_removal(self, undo: Callable[[], None]) -> None:
        """Register another function for `remove` to call."""
        self._undo.append(undo)

    def remove(self) -> None:
        """Remove all brackets, the latest first."""
        while self._undo:
            self._undo.pop()()
