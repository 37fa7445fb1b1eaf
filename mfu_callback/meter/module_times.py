"""Times the forward and backward pass of each module in a few batches."""

from __future__ import annotations

import functools
import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from mfu_callback.flops.compiled import compiled_calls_watched
from mfu_callback.flops.module_stack import Frame, ModuleStack
from mfu_callback.flops.passes import in_backward, next_node_number
from mfu_callback.meter.clock import Timer
from mfu_callback.tools.nested import tensors_in


class Seconds(NamedTuple):
    """Seconds of a module, without its submodules."""

    forward: float
    backward: float


class _Mark(NamedTuple):
    """A stamp from which on the time belongs to a module; with the name None it belongs to no module."""

    name: str | None
    is_backward: bool
    stamp: Any


class _Batch(NamedTuple):
    """A batch that was timed."""

    marks: list[_Mark]
    size: float


class ModuleTimes:
    """Assigns the time of batches to the innermost running module.

    Global hooks stamp where a module's forward begins and ends. For the backward pass, the autograd graph is walked
    after the forward. Its nodes are numbered in the order in which the forward made them, so each number belongs to the
    module that ran at that time. The backward runs the nodes in descending order. Wherever the next node belongs to
    another module, a hook on that node stamps the change. The values that the nodes compute are not touched.

    Compiled code is timed as one piece: its time belongs to the module whose forward or method was compiled, or to the
    module that calls a compiled function. A manual backward from a tensor that no module returned is timed from the
    first node that belongs to a module. A backward inside a backward (reentrant checkpoint) belongs to its caller.

    Args:
        root: The model; gives the modules their names.
        timer: Stamps the moments.
    """

    def __init__(self, root: nn.Module, timer: Timer) -> None:
        self.batches = 0
        self._timer = timer
        self._modules = ModuleStack(root, leave=self._leave, enter=self._enter)
        self._seen: list[_Batch] = []
        self._size = 1.0
        self._marks: list[_Mark] = []
        self._is_on = False
        self._forget_graph()

    @contextmanager
    def watching(self, size: float = 1.0) -> Iterator[None]:
        """A context that times the modules of one batch, whose forward and backward pass run inside it.

        Args:
            size: The size of the batch, in any unit; NaN if unknown.
        """
        self._size = size
        with ExitStack() as stack:
            stack.callback(self._end)
            stack.enter_context(compiled_calls_watched(self._enter_compiled, self._leave_compiled))
            stack.callback(register_optimizer_step_pre_hook(lambda *_: self._mark(None)).remove)
            stack.enter_context(self._modules)
            self._is_on = True
            self._mark(None)
            yield

    def around_forward(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap the function that runs the forward pass of the batch and returns its loss."""

        @functools.wraps(forward)
        def call(*args: Any, **kwargs: Any) -> Any:
            self._mark("")
            out = forward(*args, **kwargs)
            self.end_forward(out)
            self._mark(None)
            return out

        return call

    def end_forward(self, output: Any) -> None:
        """End the forward pass of the batch, whose backward pass begins from an output."""
        self._watch_backward_of(output)

    def seconds(self) -> tuple[dict[str, Seconds], float]:
        """Mean seconds by module over the faster half of the batches, and the mean size of these batches.

        The others may have met something that is not the model's: hooks and kernels that run for the first time,
        another process. The device must have finished all timed batches.

        Returns:
            The seconds, in the order of the modules' first run, where "" is the root itself; and the size.
        """
        faster = sorted(self._seen, key=self._seconds_per_size)[: (self.batches + 1) // 2]
        totals: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for batch in faster:
            for mark, seconds in self._durations(batch):
                totals[mark.name or ""][mark.is_backward] += seconds
        means = {name: Seconds(*(seconds / len(faster) for seconds in both)) for name, both in totals.items()}
        return means, sum(batch.size for batch in faster) / len(faster)

    def is_over(self) -> bool:
        """Whether the device has finished all timed batches; never waits."""
        return all(self._timer.is_over(batch.marks[-1].stamp) for batch in self._seen)

    def _seconds_per_size(self, batch: _Batch) -> float:
        seconds = sum(seconds for _, seconds in self._durations(batch))
        return seconds if math.isnan(batch.size) else seconds / batch.size

    def _durations(self, batch: _Batch) -> list[tuple[_Mark, float]]:
        durations = self._timer.durations([mark.stamp for mark in batch.marks]).tolist()
        # The last mark only ends the one before.
        return [pair for pair in zip(batch.marks, durations, strict=False) if pair[0].name is not None]

    def _mark(self, name: str | None, *, is_backward: bool = False) -> None:
        if not self._is_on:
            return
        self._marks.append(_Mark(name, is_backward, self._timer.stamp()))
        if not is_backward:
            self._made_from.append(next_node_number())
            self._made_by.append(name)

    def _end(self) -> None:
        if self._is_on:
            self._mark(None)
            self._is_on = False
            self._seen.append(_Batch(self._marks, self._size))
            self.batches += 1
        self._marks = []
        self._forget_graph()

    def _forget_graph(self) -> None:
        self._nodes: set[Any] = set()  # visited already
        self._made_from: list[int] = []  # the first node's number
        self._made_by: list[str | None] = []
        self._in_backward: str | None = None  # the module whose backward runs

    # The forward pass, and the forward that a checkpoint runs again in the backward pass

    def _enter(self, frame: Frame) -> None:
        self._mark(frame.name, is_backward=in_backward())

    def _leave(self, frame: Frame, inputs: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        outer = self._modules.outer
        if in_backward():
            self._mark(self._in_backward if outer is None else outer.name, is_backward=True)
            return
        if outer is None:
            self._watch_backward_of(output)
        self._mark("" if outer is None else outer.name)

    def _enter_compiled(self, function: Callable[..., Any], args: Any, kwargs: Any) -> None:
        module = self._modules.module_of(function)
        name = None if module is None else self._modules.name_of_module(module)
        self._modules.suspend()
        if name is not None:
            self._mark(name, is_backward=in_backward())

    def _leave_compiled(self) -> None:
        self._modules.resume()
        name = self._in_backward if in_backward() else self._modules.name
        self._mark(name, is_backward=in_backward())

    # The backward pass

    def _watch_backward_of(self, output: Any) -> None:
        """Hook the autograd nodes of an output at which the backward pass moves on to another module."""
        if not self._is_on:
            return
        self._mark(None)
        nodes = sorted(self._new_nodes_of(output), key=lambda node: -node._sequence_nr())
        for number, node in enumerate(nodes):
            owner = self._maker_of(node)
            if number == 0 or owner != self._maker_of(nodes[number - 1]):
                node.register_prehook(functools.partial(self._go_over_to, owner, number == 0))

    def _new_nodes_of(self, output: Any) -> list[Any]:
        found = []
        waiting = [tensor.grad_fn for tensor in tensors_in(output)]
        while waiting:
            node = waiting.pop()
            if node is None or node in self._nodes or hasattr(node, "variable"):  # the gradient of a parameter
                continue
            self._nodes.add(node)
            found.append(node)
            waiting.extend(following for following, _ in node.next_functions)
        return found

    def _maker_of(self, node: Any) -> str:
        at = bisect_right(self._made_from, node._sequence_nr()) - 1
        return (self._made_by[at] if at >= 0 else None) or ""

    def _go_over_to(self, name: str, is_first: bool, gradients: Any) -> None:
        if not self._is_on:  # a graph that is kept for longer
            return
        self._in_backward = name
        self._mark(name, is_backward=True)
        if is_first:  # after this backward pass the time belongs to no module
            torch.autograd.Variable._execution_engine.queue_callback(lambda: self._mark(None))
