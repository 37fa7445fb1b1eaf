"""Counts what is no operator but has a formula: modules, autograd Functions and Triton kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import _disable_current_modes

from mfu_callback.flops.module_stack import Frame
from mfu_callback.flops.operators import FormulaCall, Operators
from mfu_callback.flops.passes import Pass, next_node_number
from mfu_callback.flops.replaced_nodes import ReplacedNodes
from mfu_callback.flops.rules.call import UncountableError
from mfu_callback.flops.rules.formulas import (
    OWN_SOURCE,
    Formula,
    formula_of_class,
    formula_of_kernel,
    kernel_arguments,
    kernel_name,
)
from mfu_callback.flops.tally import Tally
from mfu_callback.flops.unseen import UnseenWork, plain_tensors


class _Launch(NamedTuple):
    """A launch of a Triton kernel."""

    kernel: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class _OpenModule(NamedTuple):
    """A running module that a formula counts."""

    frame: Frame
    formula: Formula


class FormulaCalls:
    """Counts calls of modules, Functions and kernels by their formulas, and names those that nothing can count.

    Its methods run inside the user's calls, and raise nothing of their own.

    Args:
        tally: Receives remarks and errors.
        unseen: Is told what such calls have written.
        nodes: Is told which Functions are running.
        running_pass: Returns the pass that is running, or None if it is not counted.
    """

    def __init__(
        self, tally: Tally, unseen: UnseenWork, nodes: ReplacedNodes, running_pass: Callable[[], Pass | None]
    ) -> None:
        self.operators: Operators  # counts by formula; set once, since each of the two needs the other
        self.is_in_operator: Callable[[], bool] = lambda: False
        self._tally = tally
        self._unseen = unseen
        self._nodes = nodes
        self._running_pass = running_pass
        self._open: list[_OpenModule] = []
        self._in_operator: list[_Launch] = []  # launches by the operator that is running
        self._excuses = 0  # launches and compiled calls so far: they write memory that no operator has written

    def suspend(self) -> None:
        """Do nothing: compiled code makes no calls that are seen."""

    def resume(self) -> None:
        """Excuse memory that compiled code has written."""
        self._excuses += 1

    def enter_module(self, frame: Frame) -> None:
        """A module's call begins."""
        formula = formula_of_class(type(frame.module))
        if formula is not None and self._running_pass() is not None:
            self._open.append(_OpenModule(frame, formula))
            self.operators.are_replaced += 1

    def leave_module(self, frame: Frame, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> bool:
        """A module's call ends; returns whether a formula counts it, or a module or Function around it."""
        if not self._open or self._open[-1].frame is not frame:
            return bool(self.operators.are_replaced)
        formula = self._open.pop().formula
        self.operators.are_replaced -= 1
        running = self._running_pass()
        # A checkpoint breaks its second run off as soon as nothing more is needed of it.
        if running is not None and (not frame.has_raised or running is Pass.RECOMPUTED):
            name, nodes = type(frame.module).__name__, range(frame.first_node, next_node_number())
            self._count(running, FormulaCall(formula, name, (frame.module, *args), kwargs, output, nodes))
            self._unseen.wrote(output)
        return True

    def around_function(
        self, kind: type, args: tuple[Any, ...], kwargs: dict[str, Any], call: Callable[[], Any]
    ) -> Any:
        """Make a call of an autograd Function, and count or check it."""
        running = self._running_pass()
        if running is None:
            return call()
        formula, first, excuses = formula_of_class(kind), next_node_number(), self._excuses
        with self._inside(kind, is_replaced=formula is not None):
            out = call()
        if formula is not None:
            nodes = range(first, next_node_number())
            self._count(running, FormulaCall(formula, kind.__name__, args, kwargs, out, nodes))
        elif running is Pass.FORWARD and excuses == self._excuses and not self._is_connected(args, out):
            self.operators.leave_out(f"{kind.__name__} (an autograd.Function whose output no operator computes)")
        self._unseen.wrote(out)
        return out

    def launched(self, kernel: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A Triton kernel is about to run."""
        running = self._running_pass()
        if running is None:
            return
        self._excuses += 1
        self._unseen.wrote((args, kwargs))
        launch = _Launch(kernel, args, kwargs)
        if self.is_in_operator():
            self._in_operator.append(launch)
        elif not self._count_launch(running, launch):
            self.operators.leave_out(f"{kernel_name(kernel)} (a Triton kernel)")

    def count(self, running: Pass) -> bool:
        """Count the kernels that the last operator launched; returns whether there are any and all have a formula."""
        if not all(formula_of_kernel(launch.kernel) for launch in self._in_operator):
            return False
        for launch in self._in_operator:
            self._count_launch(running, launch)
        return bool(self._in_operator)

    def forget(self) -> None:
        """Forget the kernels that the last operator has launched."""
        self._in_operator.clear()

    def _count_launch(self, running: Pass, launch: _Launch) -> bool:
        formula = formula_of_kernel(launch.kernel)
        if formula is None:
            return False
        args, kwargs = kernel_arguments(launch.kernel, launch.args, launch.kwargs, formula)
        self._count(running, FormulaCall(formula, kernel_name(launch.kernel), args, kwargs))
        return True

    @contextmanager
    def _inside(self, kind: type, *, is_replaced: bool) -> Iterator[None]:
        is_users = kind.__module__ != "torch._library.autograd"  # torch makes a Function for each custom operator
        self.operators.are_replaced += is_replaced
        self._nodes.in_function += is_users
        try:
            yield
        finally:
            self.operators.are_replaced -= is_replaced
            self._nodes.in_function -= is_users

    def _count(self, running: Pass, call: FormulaCall) -> None:
        if self.operators.are_replaced:
            return
        if call.formula.source == OWN_SOURCE:
            remark = f"{call.name} computes a weight: neither it nor its gradient is counted (docs/flops.md)"
            self._tally.notes.add(remark)
        try:
            with _disable_current_modes():  # what a formula itself computes is not the model's
                self.operators.count_by_formula(running, call)
        except UncountableError as reason:
            self.operators.leave_out(f"{call.name} ({reason})")
        except Exception as error:
            self._tally.rule_errors.add(f"{call.name}: {type(error).__name__}: {error}")

    def _is_connected(self, args: tuple[Any, ...], out: Any) -> bool:
        """Whether operators have computed every tensor of an output, as far as that can be known."""
        if torch._C._are_functorch_transforms_active():
            return True
        inputs, outputs = plain_tensors(args), plain_tensors(out)
        own = {tensor.untyped_storage()._cdata for tensor in inputs}
        return not inputs or all(
            tensor.untyped_storage()._cdata in own or self._unseen.is_made_by_operators(tensor)
            for tensor in outputs
            if tensor.numel() > 1 and (tensor.is_floating_point() or tensor.is_complex())
        )
