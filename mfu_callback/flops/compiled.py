"""Watches every call of compiled code without changing it.

A module hook inside a compiled region changes what Dynamo compiles, and so does a dispatch mode that does not declare
itself infrastructure (Dynamo may skip the frame for the rest of the run). Neither would see what a compiled kernel
computes. So the module hooks are removed while compiled code runs, the operators that the mode sees there are not
counted, and the call is replayed (replay.py).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from mfu_callback.tools.dynamo import WRAPPERS, Switch, dynamos_own, switch_replaced

Function = Callable[..., Any]


@contextmanager
def compiled_calls_watched(before: Callable[[Function, Any, Any], None], after: Callable[[], None]) -> Iterator[None]:
    """A context in which every call of compiled code is reported: modules, functions, flex_attention.

    All compiled code runs inside one wrapper in Dynamo. Before and after the call, the wrapper calls a function of its
    module to switch Dynamo on and off. That function is replaced, so nothing is put on the user's objects. Several
    contexts inside each other each report every call.

    Args:
        before: Called before the outermost compiled call, with the uncompiled function and its arguments.
        after: Called after the outermost compiled call, also if it raised.
    """
    running: list[FrameType] = []
    is_over = False

    def make(original: Switch) -> Switch:
        switch_off = dynamos_own(original)

        def watched(callback: Any) -> Any:
            prior = switch_off(None)  # or else Dynamo may be on where the call ends, and compile what follows here
            caller = _outside_of(watched, sys._getframe(1))
            if running and running[-1] is caller:
                running.pop()
                if not running:
                    after()
            elif not is_over and callable(callback) and _is_around_compiled(caller):
                running.append(caller)
                if len(running) == 1:
                    before(*(caller.f_locals[name] for name in ("fn", "args", "kwargs")))
            original(callback)
            return prior

        return watched

    with switch_replaced(make):
        try:
            yield
        finally:
            is_over = True


def _outside_of(watched: Switch, caller: FrameType) -> FrameType:
    """The frame that calls a watched switch, or the one of another counter on top of it."""
    while caller.f_code is watched.__code__ and caller.f_back is not None:
        caller = caller.f_back
    return caller


def _is_around_compiled(wrapper: FrameType) -> bool:
    """Whether a frame is of the wrapper of compiled code, and not of one of what must not be compiled."""
    return wrapper.f_code.co_name in WRAPPERS and callable(wrapper.f_locals.get("callback"))
