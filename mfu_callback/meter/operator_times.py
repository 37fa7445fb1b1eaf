"""Times the operators of a few steps with torch's profiler."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from mfu_callback.flops.operator_calls import Shapes, shapes_in

FORWARD, BACKWARD, OPTIMIZER, OTHER = "forward", "backward", "optimizer", "other"
_PREFIX = "mfu_callback: "


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
        phases_sec: Seconds of the forward and the backward pass, with what no operator takes in them.
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
        with profile(activities=self._activities, record_shapes=True, acc_events=True) as one:
            yield
        self._profiles.append(one)

    def during(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function whose operators belong to a phase; waits at its end for a device that is behind the host."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with record_function(f"{_PREFIX}{phase}"):
                out = function(*args, **kwargs)
                if self._on_device:
                    torch.accelerator.synchronize()
            return out

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
            for phase in (FORWARD, BACKWARD):
                phases[phase] += spans.seconds(phase)
            for event in events:
                if not _is_operator(event):
                    continue
                owner = _owner_of(event, known)
                key = Operator(owner.name, shapes_in(owner.input_shapes), spans.phase_of(owner))
                calls, seconds = operators[key]
                operators[key] = Took(calls + (owner is event), seconds + self._own_sec(event))
        return Times(len(self._profiles), dict(operators), dict(phases))

    def _own_sec(self, event: Any) -> float:
        own: float = event.self_device_time_total if self._on_device else event.self_cpu_time_total
        return own / 1e6


def _is_operator(event: Any) -> bool:
    return "::" in event.name and not event.name.startswith("autograd::")


def _owner_of(event: Any, known: Container[tuple[str, Shapes]]) -> Any:
    """The event itself, or the known operator that has called it."""
    caller = event
    while caller is not None:
        if _is_operator(caller) and (caller.name, shapes_in(caller.input_shapes)) in known:
            return caller
        caller = caller.cpu_parent
    return event


class _Spans:
    """When each phase ran, in one profile; a phase within another, as in manual optimization, is not that one's.

    Args:
        events: The events of the profile.
    """

    def __init__(self, events: Iterable[Any]) -> None:
        # The innermost first.
        self._of: dict[str, list[tuple[float, float]]] = {BACKWARD: [], FORWARD: [], OPTIMIZER: []}
        for event in events:
            is_optimizer = event.name.startswith("Optimizer.step")
            phase = OPTIMIZER if is_optimizer else event.name.removeprefix(_PREFIX)
            if phase in self._of and (is_optimizer or event.name.startswith(_PREFIX)):
                self._of[phase].append((event.time_range.start, event.time_range.end))

    def phase_of(self, event: Any) -> str:
        """The phase in which an event begins."""
        at = event.time_range.start
        inside = (phase for phase, spans in self._of.items() if any(start <= at < end for start, end in spans))
        return next(inside, OTHER)

    def seconds(self, phase: str) -> float:
        """Seconds of a phase."""
        inner = [span for other, spans in self._of.items() if other != phase for span in spans]
        return (
            sum(
                end - start - sum(until - since for since, until in inner if start < since and until < end)
                for start, end in self._of[phase]
            )
            / 1e6
        )
