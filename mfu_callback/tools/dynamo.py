"""The function by which Dynamo switches itself on and off around every call of compiled code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import torch
import torch._dynamo.eval_frame as eval_frame

Switch = Callable[[Any], Any]

# The newest name first. Whatever wraps compiled code calls it before the call and after.
SWITCH = next(name for name in ("_maybe_set_eval_frame", "set_eval_frame") if hasattr(eval_frame, name))
WRAPPERS = ("compile_wrapper", "_fn")

_replaced: dict[Switch, Switch] = {}  # by each switch of ours the one that it stands in place of
_over: set[Switch] = set()


@contextmanager
def switch_replaced(make: Callable[[Switch], Switch]) -> Iterator[None]:
    """A context in which Dynamo uses another switch.

    Args:
        make: Makes it from the switch that it stands in place of, which it calls with what it is given, or with None:
            what then runs is not compiled.
    """
    original: Switch = getattr(eval_frame, SWITCH)
    switch: Any = make(original)
    eval_frame.skip_code(switch.__code__)
    _replaced[switch] = original
    setattr(eval_frame, SWITCH, switch)
    try:
        yield
    finally:
        _over.add(switch)
        _remove_what_is_over()


def dynamos_own(switch: Switch) -> Switch:
    """Dynamo's own switch, which a switch of ours stands in place of, perhaps with others between them."""
    while switch in _replaced:
        switch = _replaced[switch]
    return switch


@contextmanager
def uncompiled() -> Iterator[None]:
    """A context in which what was compiled runs as it was before, in this thread."""
    set_stance = getattr(torch.compiler, "set_stance", None)
    with switch_replaced(_held_off) if set_stance is None else set_stance("force_eager"):
        yield


def _held_off(original: Switch) -> Switch:
    thread = get_ident()

    def switch(callback: Any) -> Any:
        return original(None if callable(callback) and get_ident() == thread else callback)

    return switch


def _remove_what_is_over() -> None:
    """Put back what our switches stand in place of, as far as those on top of them are over too.

    Those of several threads need not end in the order in which they began.
    """
    while (switch := getattr(eval_frame, SWITCH)) in _over:
        _over.remove(switch)
        setattr(eval_frame, SWITCH, _replaced.pop(switch))
