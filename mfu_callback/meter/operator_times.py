"""Times the operators of a few steps with torch's profiler."""

from __future__ import annotations

import functools
import gc
import os
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerAction, ProfilerActivity, profile, record_function

from mfu_callback.flops.operator_calls import Shapes, shapes_in
from mfu_callback.tools.accelerators import synchronize

FORWARD, BACKWARD, OPTIMIZER, OTHER = "forward", "backward", "optimizer", "other"
COMPILED = "compiled code"
_PREFIX = "mfu_callback: "
_COMPILED = "## Call CompiledFxGraph"  # what Inductor has made of one graph
_OPTIMIZER_STEP = "Optimizer.step"  # Optimizer.step#AdamW.step
_BACKWARD_NODE = "autograd::engine::evaluate_function"  # one node of a graph that autograd walks back
_LOG_LEVEL = "KINETO_LOG_LEVEL"
_Span = tuple[float, float, str]  # start and end in us, and the phase
# What keeps the events of a finished profile; an older torch always keeps them.
_KEPT: dict[str, Any] = {"acc_events": True} if "acc_events" in signature(profile.__init__).parameters else {}


class Operator(NamedTuple):
    """An operator on tensors of some shapes, in a phase."""

    name: str
    shapes: Shapes
    phase: str


class Took(NamedTuple):
    """What it took in all timed steps: number of calls, and seconds without the operators that it calls."""

    calls: int
    seconds: float


class Times(NamedTuple):
    """The operators of some steps.

    Attributes:
        steps: Number of steps, or of micro-batches.
        operators: Calls and seconds of each operator, summed over the steps.
        phases_sec: Seconds of the forward and the backward pass, with what no operator takes in them; on a CPU also of
            the optimizer, after which nothing waits for CUDA.
    """

    steps: int
    operators: dict[Operator, Took]
    phases_sec: dict[str, float]


class OperatorTimes:
    """Profiles steps, and reads the profiles once they are over.

    On a CPU an operator's time is that of the host, on CUDA that of its kernels on the device; time in which none runs
    is in the phases and in no operator. CUDA is written against the documentation of `torch.profiler`, and not yet run.

    Args:
        device: The device that computes.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._on_device = device.type == "cuda"
        self._activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._on_device else [])]
        self._profiles: list[Any] = []

    @property
    def steps(self) -> int:
        """Number of profiled steps."""
        return len(self._profiles)

    @contextmanager
    def profiling(self) -> Iterator[None]:
        """A context that profiles the step that runs inside it.

        Raises:
            RuntimeError: If another profiler is active.
        """
        if torch._C._autograd._profiler_enabled():
            raise RuntimeError("another profiler is active")
        if _is_another_prepared():  # it would crash the process when it starts
            raise RuntimeError("another profiler is about to start")
        with _quiet_kineto(), profile(activities=self._activities, record_shapes=True, **_KEPT) as one:
            yield
        self._profiles.append(one)

    @contextmanager
    def span(self, phase: str) -> Iterator[None]:
        """A context whose operators belong to a phase; waits at its end for a device that is behind the host."""
        with record_function(f"{_PREFIX}{phase}"):
            yield
            if self._on_device:
                synchronize(self._device)

    def during(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function whose operators belong to a phase (`span`)."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.span(phase):
                return function(*args, **kwargs)

        return call

    def read(self, known: Container[tuple[str, Shapes]]) -> Times:
        """The times of all profiled steps.

        Args:
            known: Names and shapes of the operators that are told apart; what they call by themselves is theirs.
        """
        operators: dict[Operator, Took] = defaultdict(lambda: Took(0, 0.0))
        phases: dict[str, float] = defaultdict(float)
        for one in self._profiles:
            events = [event for event in one.events() if event.device_type == DeviceType.CPU]  # has its kernels' time
            spans = _Spans(events)
            for phase in (FORWARD, BACKWARD, *(() if self._on_device else (OPTIMIZER,))):
                phases[phase] += spans.seconds(phase)
            for event in events:
                if not self._runs(event):
                    continue
                owner = _owner_of(event, known)
                key = Operator(_name_of(owner), shapes_in(owner.input_shapes or ()), spans.phase_of(owner))
                calls, seconds = operators[key]
                operators[key] = Took(calls + (owner is event), seconds + self._own_sec(event))
        return Times(len(self._profiles), dict(operators), dict(phases))

    def _runs(self, event: Any) -> bool:
        """Whether an event is of an operator, of compiled code, or of a kernel that no operator has started."""
        if _is_operator(event) or event.name.startswith(_COMPILED):
            return True
        return self._on_device and event.self_device_time_total > 0 and not event.name.startswith(_PREFIX)

    def _own_sec(self, event: Any) -> float:
        own: float = event.self_device_time_total if self._on_device else event.self_cpu_time_total
        return own / 1e6


def _is_operator(event: Any) -> bool:
    return "::" in event.name and not event.name.startswith("autograd::")


def _name_of(event: Any) -> str:
    return COMPILED if event.name.startswith(_COMPILED) else str(event.name)


def _owner_of(event: Any, known: Container[tuple[str, Shapes]]) -> Any:
    """The event itself, or the outermost known operator that has called it."""
    owner = caller = event
    while caller is not None:
        if _is_operator(caller) and (caller.name, shapes_in(caller.input_shapes or ())) in known:
            owner = caller
        caller = caller.cpu_parent
    return owner


def _phase_named(name: str) -> str:
    return OPTIMIZER if name.startswith(_OPTIMIZER_STEP) else name.removeprefix(_PREFIX)


def _span(event: Any, phase: str) -> _Span:
    return event.time_range.start, event.time_range.end, phase


def _in_order(spans: Iterable[_Span]) -> list[_Span]:
    """Spans by their start, and an outer one before those inside it."""
    return sorted(spans, key=lambda span: (span[0], -span[1]))


def _is_another_prepared() -> bool:
    """Whether a profiler of the user's has a schedule that is in its warm-up."""
    profilers = [one for one in gc.get_objects() if issubclass(type(one), profile)]
    return any(getattr(one, "current_action", None) is ProfilerAction.WARMUP for one in profilers)


@contextmanager
def _quiet_kineto() -> Iterator[None]:
    """A context in which the profiler's library writes nothing to stderr where it starts and stops."""
    if _LOG_LEVEL in os.environ:
        yield
        return
    os.environ[_LOG_LEVEL] = "99"
    try:
        yield
    finally:
        os.environ.pop(_LOG_LEVEL, None)


class _Spans:
    """When each phase ran, in one profile.

    The innermost of several counts: passes run inside the optimizer's closure, or with manual optimization everything
    inside the training step. What autograd walks back inside a forward pass (a loss that makes its gradients at once, a
    penalty on gradients) is backward, as the count of FLOPs has it.

    Args:
        events: The events of the profile.
    """

    def __init__(self, events: Sequence[Any]) -> None:
        named = [event for event in events if event.name.startswith((_OPTIMIZER_STEP, _PREFIX))]
        self._spans = _in_order(_span(event, _phase_named(event.name)) for event in named)
        nodes = [event for event in events if event.name.startswith(_BACKWARD_NODE)]
        inside_forward = [_span(node, BACKWARD) for node in nodes if self.phase_of(node) == FORWARD]
        self._spans = _in_order([*self._spans, *inside_forward])

    def phase_of(self, event: Any) -> str:
        """The phase in which an event begins."""
        span = self._around(event.time_range.start, self._spans)
        return OTHER if span is None else span[2]

    def seconds(self, phase: str) -> float:
        """Seconds of a phase."""
        whole = 0.0
        for number, span in enumerate(self._spans):
            outer = self._around(span[0], self._spans[:number])
            whole += span[1] - span[0] if span[2] == phase else 0.0
            whole -= span[1] - span[0] if outer is not None and outer[2] == phase else 0.0
        return whole / 1e6

    @staticmethod
    def _around(moment: float, spans: list[_Span]) -> _Span | None:
        return next((span for span in reversed(spans) if span[0] <= moment < span[1]), None)
