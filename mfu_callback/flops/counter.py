"""Counts FLOPs during a real training step: one dispatch mode sees every operator of the forward and backward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from threading import RLock
from types import TracebackType
from typing import Any, Literal, get_args

from torch import nn

from mfu_callback.flops.compiled_regions import CompiledRegions
from mfu_callback.flops.flop_count import FlopCount
from mfu_callback.flops.formula_calls import FormulaCalls
from mfu_callback.flops.function_calls import FunctionCalls
from mfu_callback.flops.lookups import Integers
from mfu_callback.flops.module_stack import Frame, ModuleStack
from mfu_callback.flops.operator_calls import OperatorCalls
from mfu_callback.flops.operator_mode import OperatorMode
from mfu_callback.flops.operators import Operators
from mfu_callback.flops.optimizers import SteppingOptimizers
from mfu_callback.flops.passes import Pass
from mfu_callback.flops.replaced_nodes import ReplacedNodes
from mfu_callback.flops.rules.thop import check_thop
from mfu_callback.flops.subclass_constructors import SubclassConstructors
from mfu_callback.flops.tally import Tally
from mfu_callback.flops.thop_modules import ModuleRules, OperatorsAlone, ThopAlone, ThopWhereItAgrees
from mfu_callback.flops.threads import OwnThread
from mfu_callback.flops.torchscript import unseen_products
from mfu_callback.flops.triton_launches import TritonLaunches
from mfu_callback.flops.unseen import UnseenWork
from mfu_callback.tools.options import Option, checked, instance_of, one_of, whole

CounterName = Literal["thop", "dispatch", "thop-modules"]
Attention = Literal["full", "causal"]
COUNTERS: tuple[str, ...] = get_args(CounterName)
ATTENTIONS: tuple[str, ...] = get_args(Attention)
MODULE = Option("must be a torch.nn.Module: the model itself.", instance_of(nn.Module), error=TypeError)
_OPTIONS = {
    "module": MODULE,
    "counter": Option(f"is not known. Use one of {COUNTERS}.", one_of(*COUNTERS)),
    "attention": Option(f"is not known. Use one of {ATTENTIONS}.", one_of(*ATTENTIONS)),
    "tensor_parallel": Option("must be a number of devices, a whole one of at least 1.", whole(1)),
    "calls": Option("must be an OperatorCalls, or None.", one_of(None), instance_of(OperatorCalls), error=TypeError),
}


class FlopCounter:
    """Counts the model FLOPs of the forward and backward passes that run inside its ``with`` block.

    A dispatch mode counts every operator. For a module that thop has a rule for (Linear, Conv*), the FLOPs are
    attributed to thop if thop's rule gives the same number, or if the module's operators have no rule here. Where thop
    cannot be imported, these modules count by the rules for operators, with the same result. The matmuls of an
    optimizer are not counted. A call of compiled code is replayed, uncompiled, on fake tensors, which uses no memory
    and computes nothing; the compiled code itself is compiled and run as it would be without the counter. Nothing is
    attached to the user's objects. Everything is removed when the block ends, also by an exception, which passes
    through unchanged.

    Counting never raises into the code that it watches. A call on which a rule fails is listed in ``rule_errors``.

    Args:
        module: The module whose submodule names are used in the count.
        counter: "thop" as described above; "dispatch" attributes all FLOPs to functional calls; "thop-modules" counts
            exactly what `thop.profile` would return, times 2.
        attention: "full" counts the whole T x S square of attention, "causal" only the pairs that attend.
        tensor_parallel: The number of devices that share the work on one batch; the work of all of them is counted
            (shards.py).
        calls: Receives every operator that runs; code that is compiled is not seen operator by operator.

    Raises:
        ValueError: If an argument has a value that is not allowed, or ``counter="thop-modules"`` and thop cannot be
            imported.
        TypeError: If ``module`` is no module, or ``calls`` something else.

    Example:
        >>> model = nn.Linear(8, 4)
        >>> with FlopCounter(model) as counter:
        ...     model(torch.zeros(2, 8)).sum().backward()
        >>> counter.result().forward, counter.result().backward
        (128, 128)
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        counter: str = "thop",
        attention: str = "full",
        tensor_parallel: int = 1,
        calls: OperatorCalls | None = None,
    ) -> None:
        given = {"module": module, "counter": counter, "attention": attention, "calls": calls}
        tensor_parallel = checked(_OPTIONS, {**given, "tensor_parallel": tensor_parallel})["tensor_parallel"]
        self.in_forward = True
        self._attention = attention
        self._thread = OwnThread()
        self._optimizers = SteppingOptimizers()
        self._tally = tally = Tally()
        self._rules = _rules(counter, module, tally)
        nodes = self._nodes = ReplacedNodes()
        unseen = UnseenWork()
        self._formulas = FormulaCalls(tally, unseen, nodes, self._running_pass)
        self._modules = ModuleStack(module, self._leave_module, self._formulas.enter_module, self._name_elsewhere)
        self._operators = self._formulas.operators = Operators(
            tally,
            self._modules,
            self._rules,
            nodes,
            unseen,
            self._pass_of_operator,
            self._formulas,
            attention=attention,
            devices=tensor_parallel,
            calls=calls,
        )
        self._mode: Any = OperatorMode(self._see)
        self._formulas.is_in_operator = lambda: self._mode.is_in_operator
        self._functions = FunctionCalls(self._formulas.around_function)
        self._launches = TritonLaunches(self._formulas.launched, lambda: self._regions.is_replaying)
        self._constructors = SubclassConstructors()
        self._regions = CompiledRegions(
            self._modules,
            self._mode,
            self._running_pass,
            tally.uncounted.add,
            nodes,
            paused=(self._functions, self._launches, self._constructors, self._formulas, unseen),
        )
        self._one_at_a_time = RLock()
        self._cleanup = ExitStack()

    def __enter__(self) -> FlopCounter:
        self._thread.enter()
        self._nodes.enter()
        with ExitStack() as entered:
            entered.enter_context(self._regions.watched())
            entered.enter_context(self._optimizers.watched())
            entered.enter_context(self._modules)
            for watching in (self._functions, self._launches, self._constructors):
                watching.resume()
                entered.callback(watching.suspend)
            self._cleanup = entered.pop_all()
        self._mode.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._mode.__exit__(kind, error, trace)
        self._cleanup.close()

    @contextmanager
    def forward_only_inside(self) -> Iterator[None]:
        """Count forward work inside this context, even if ``in_forward`` is False; backward work is always counted."""
        before, self.in_forward = self.in_forward, True
        try:
            with self._optimizers.forward_inside():
                yield
        finally:
            self.in_forward = before

    def result(self) -> FlopCount:
        """The count so far."""
        return self._rules.result(self._attention)

    @property
    def lookups(self) -> Sequence[Integers]:
        """What embeddings have looked up in the forward pass so far, in order."""
        return self._tally.lookups

    def _see(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        with self._one_at_a_time:
            try:
                if not self._regions.is_tracing((args, kwargs)):
                    self._operators.see(func, args, kwargs, out, is_replay=self._regions.is_replaying)
            except Exception as error:  # it runs inside the user's call
                self._tally.rule_errors.add(f"{func}: {type(error).__name__}: {error}")

    def _leave_module(self, frame: Frame, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        try:
            self._file(frame, args, kwargs, output)
        except Exception as error:  # it runs inside the user's call
            self._tally.rule_errors.add(f"{type(frame.module).__name__}: {type(error).__name__}: {error}")

    def _file(self, frame: Frame, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if self._formulas.leave_module(frame, args, kwargs, output):
            self._tally.uncounted |= frame.uncounted
            return
        is_forward = self._running_pass() is Pass.FORWARD
        if is_forward and not frame.has_raised:
            frame.uncounted.update(f"{name} (computed by TorchScript)" for name in unseen_products(frame.module))
        self._rules.leave(frame, args, output if is_forward else None)

    def _name_elsewhere(self, description: str) -> None:
        if self.in_forward:
            self._tally.uncounted.add(f"{description} (ran in another thread)")

    def _running_pass(self) -> Pass | None:
        """The pass that is running; None for work that is not counted, such as that of other threads."""
        running = self._pass_of_operator()
        return running if running is not Pass.FORWARD or self._thread.is_running else None

    def _pass_of_operator(self) -> Pass | None:
        """The pass that an operator runs in; None for one that is not counted.

        In other threads the mode sees operators only where torch has carried it there (`torch.jit.fork`, autograd).
        """
        running = self._regions.current_pass()
        if running is not Pass.FORWARD or self._regions.is_replaying:
            return running
        return running if self.in_forward and not self._optimizers.is_computing else None


def _rules(counter: str, module: nn.Module, tally: Tally) -> ModuleRules:
    if counter == "thop-modules":
        check_thop("counter")
        return ThopAlone(module, tally)
    return ThopWhereItAgrees(tally) if counter == "thop" else OperatorsAlone(tally)
