"""Handles compiled code during a count: its operators are not counted, and its call is replayed uncompiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch

from mfu_callback.flops.compiled import compiled_calls_watched
from mfu_callback.flops.module_stack import ModuleStack
from mfu_callback.flops.operator_mode import OperatorMode, has_fake, modes_off
from mfu_callback.flops.passes import (
    Pass,
    current_pass,
    current_task,
    next_node_number,
    recomputes_for_first_graph,
)
from mfu_callback.flops.replaced_nodes import ReplacedNodes
from mfu_callback.flops.replay import Replay
from mfu_callback.flops.threads import OwnThread

_CONTROL_FLOW = "torch._higher_order_ops."

_watching: list[CompiledRegions] = []  # of all counters, the outermost first


class Paused(Protocol):
    """Something that watches, and can stop for a while."""

    def suspend(self) -> None:
        """Stop watching."""

    def resume(self) -> None:
        """Watch again."""


class CompiledRegions:
    """Replays every call of compiled code, and knows which operators belong to the call and which to its replay.

    Args:
        modules: The stack of running modules; its hooks are removed while compiled code runs.
        mode: The dispatch mode that sees the operators of the replay.
        running_pass: Returns the pass that is running; None for work that is not counted.
        failed: Called with a text that names a function that could not be replayed, and the error.
        nodes: Receives the autograd nodes of compiled calls, whose backward is not counted.
        paused: What else must not watch while compiled code runs.
    """

    def __init__(
        self,
        modules: ModuleStack,
        mode: OperatorMode,
        running_pass: Callable[[], Pass | None],
        failed: Callable[[str], None],
        nodes: ReplacedNodes,
        paused: Sequence[Paused] = (),
    ) -> None:
        self._modules = modules
        self._running_pass = running_pass
        self._mode = mode
        self._failed = failed
        self._nodes = nodes
        self._paused = (modules, *paused)
        self._entered_at: int | None = None  # the first sequence number of the running call
        self._in_control_flow = False
        self._is_suspended = False
        self._thread = OwnThread()
        self._replay_of: _Replayed | None = None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """A context in which compiled calls are replayed."""
        self._thread.enter()
        _watching.append(self)
        try:
            with compiled_calls_watched(self._enter, self._leave):
                yield
        finally:
            _watching.remove(self)

    @property
    def is_replaying(self) -> bool:
        """Whether a replay is running."""
        return self._replay_of is not None

    def is_tracing(self, args: Any) -> bool:
        """Whether an operator runs on fake tensors because control flow is being traced."""
        return self._in_control_flow and has_fake(args)

    def current_pass(self) -> Pass | None:
        """The pass that is running; None in compiled code and in its backward, because the replay counts both."""
        if self._entered_at is not None:
            return None
        if self._replay_of is None:
            return current_pass(self._nodes)
        return self._replay_of.running if current_task() == self._replay_of.in_task else current_pass(self._nodes)

    def _enter(self, function: Callable[..., Any], args: Any, kwargs: Any) -> None:
        # torch compiles control flow (cond, scan, ...) only to trace it; what then runs is seen operator by operator.
        self._in_control_flow = str(getattr(function, "__module__", "")).startswith(_CONTROL_FLOW)
        running = None if self._in_control_flow else self._running_pass()
        if running is not None and not isinstance(getattr(function, "__self__", None), torch.optim.Optimizer):
            self._replay(function, args, kwargs, running)
        self._suspend()
        self._entered_at = None if self._in_control_flow else next_node_number()

    def _leave(self) -> None:
        if self._entered_at is not None:
            self._nodes.hide(range(self._entered_at, next_node_number()))
        self._entered_at, self._in_control_flow = None, False
        self._resume()

    def _suspend(self) -> None:
        self._is_suspended = True
        for watching in self._paused:
            watching.suspend()

    def _resume(self) -> None:
        self._is_suspended = False
        for watching in self._paused:
            watching.resume()

    @property
    def _is_watching_here(self) -> bool:
        return self._thread.is_running and not self._is_suspended

    @contextmanager
    def _unseen_by_others(self) -> Iterator[None]:
        """A context whose work is not another counter's, which replays the call itself."""
        others = [other for other in _watching if other is not self and other._is_watching_here]
        for other in others:
            other._suspend()
        try:
            with modes_off():
                yield
        finally:
            for other in others:
                other._resume()

    def _replay(self, function: Callable[..., Any], args: Any, kwargs: Any, running: Pass) -> None:
        self._replay_of = _Replayed(running, in_task=current_task())
        try:
            with self._unseen_by_others():
                replay = Replay(self._modules.root, function, args, kwargs)
                # The backward of a call that a non-reentrant checkpoint runs again belongs to its first run.
                backward = not (running is Pass.RECOMPUTED and recomputes_for_first_graph())
                with self._modules.also_known(replay.modules):
                    replay.run(self._mode, backward=backward)
        except Exception as error:
            self._failed(f"{self._modules.name_of(function)} (compiled; {type(error).__name__}: {error})")
        finally:
            self._replay_of = None


class _Replayed(NamedTuple):
    """The pass of the compiled call that is replayed, and the number of the backward that it runs in."""

    running: Pass
    in_task: int
