"""Brackets: wrappers that are put on a method of one object for a while and then removed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

Function = Callable[..., Any]

# What undoes brackets that were to be removed while another bracket was on top of them, as two threads may have it.
_covered: WeakKeyDictionary[Function, Callable[[], None]] = WeakKeyDictionary()


def _is_of_class(owner: object, method: str, found: Any) -> bool:
    """Whether an object's method is its class's own.

    Its ``__dict__`` would tell too, but once that was asked for, CPython finds each attribute of the object by a slower
    way for the rest of its life: on a Trainer's loops that took 5 us of every step.
    """
    of_class = getattr(type(owner), method, None)
    return getattr(found, "__func__", found) is getattr(of_class, "__func__", of_class)


class _Wrapper(partial[Any]):
    """A method in a bracket. A copy or a pickle of its object has the method without the bracket.

    A partial, since each call of one in Python would cost more.

    Attributes:
        __wrapped__: The method without the bracket.
        found_at: The object and the name at which its class has the method; None if the object has it itself.
    """

    __wrapped__: Any
    found_at: tuple[object, str] | None

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self.__wrapped__, memo)

    def __reduce__(self) -> Any:
        return (copy.copy, (self.__wrapped__,)) if self.found_at is None else (getattr, self.found_at)


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
        original = getattr(owner, method)
        was_own = not _is_of_class(owner, method, original)
        wrapper = _Wrapper(wrap(original))
        wrapper.__wrapped__, wrapper.found_at = original, None if was_own else (owner, method)
        setattr(owner, method, wrapper)

        def restore() -> None:
            if was_own:
                setattr(owner, method, original)
            else:
                delattr(owner, method)

        def undo() -> None:
            if getattr(owner, method, None) is not wrapper:  # removed already, or wrapped again by other code
                _covered[wrapper] = restore
                return
            restore()
            while (covered := getattr(owner, method, None)) is not None and covered in _covered:
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
