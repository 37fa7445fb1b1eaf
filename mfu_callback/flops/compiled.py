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

import torch._dynamo.eval_frame as eval_frame

Function = Callable[..., Any]


@contextmanager
def compiled_calls_watched(before: Callable[[Function, Any, Any], None], after: Callable[[], None]) -> Iterator[None]:
    """A context in which every call of compiled code is reported: modules, functions, flex_attention.

    All compiled code runs inside one wrapper in Dynamo. Before and after the call, the wrapper calls a function of its
    module to switch Dynamo on and off. That function is replaced, so nothing is put on the user's objects.

    Args:
        before: Called before the outermost compiled call, with the uncompiled function and its arguments.
        after: Called after the outermost compiled call, also if it raised.
    """
    original: Any = eval_frame._maybe_set_eval_frame
    running: list[FrameType] = []

    def watched(callback: Any) -> Any:
        caller = sys._getframe(1)
        if running and running[-1] is caller:
            running.pop()
            if not running:
                after()
        elif not is_over and caller.f_code.co_name == "compile_wrapper" and callable(callback):
            running.append(caller)
            if len(running) == 1:
                before(*(caller.f_locals[name] for name in ("fn", "args", "kwargs")))
        return original(callback)

    is_over = False
    _replaced[watched] = original
    eval_frame._maybe_set_eval_frame = watched
    try:
        yield
    finally:
        is_over = True
        _over.add(watched)
        _remove_what_is_over()


_replaced: dict[Function, Any] = {}  # by each watching function what it stands in place of
_over: set[Function] = set()


def _remove_what_is_over() -> None:
    """Put back what the watching functions stand in place of, as far as those on top of them are over too.

    Counters of several threads need not end in the order in which they began.
    """
    while eval_frame._maybe_set_eval_frame in _over:
        watched: Any = eval_frame._maybe_set_eval_frame
        _over.remove(watched)
        eval_frame._maybe_set_eval_frame = _replaced.pop(watched)
