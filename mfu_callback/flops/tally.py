"""Sums the FLOPs by pass, module, rule and dtype, the bytes, and collects what could not be counted."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

from mfu_callback.flops.flop_count import FlopCount, OperatorCount
from mfu_callback.flops.lookups import Integers
from mfu_callback.flops.module_stack import Frame
from mfu_callback.flops.passes import Pass
from mfu_callback.flops.rules.call import Work
from mfu_callback.flops.rules.traffic import Traffic


@dataclass(slots=True)
class _Totals:
    """All calls of one operator so far."""

    rule: str
    calls: int = 0
    forward: int = 0
    backward: int = 0
    recomputed: int = 0
    read: int = 0
    written: int = 0


class Tally:
    """Adds up what a counter sees.

    Attributes:
        uncounted: Names of compute operations without a rule.
        rule_errors: Calls on which a rule of this package failed.
        notes: Remarks on how some calls were counted.
        saw_backward: Whether a backward ran.
        lookups: What embeddings have looked up in the forward pass.
    """

    def __init__(self) -> None:
        self.uncounted: set[str] = set()
        self.rule_errors: set[str] = set()
        self.notes: set[str] = set()
        self.saw_backward = False
        self.lookups: list[Integers] = []
        self._flops: Counter[Pass] = Counter()
        self._thop = 0
        self._per_module: defaultdict[str, Counter[str]] = defaultdict(Counter)  # forward FLOPs by module and rule
        self._per_dtype: Counter[str] = Counter()
        self._backward_per_dtype: Counter[str] = Counter()
        self._operators: dict[str, _Totals] = {}
        self._read: Counter[str] = Counter()  # bytes of the forward, by module
        self._written: Counter[str] = Counter()

    def add(self, running: Pass, work: Work, *, operator: str, rule: str, dtype: str, frame: Frame | None) -> None:
        """Add one call's work.

        Args:
            running: The pass that it ran in.
            work: Its FLOPs.
            operator: The name of what was called.
            rule: Who gives its rule.
            dtype: The name of the dtype that was multiplied.
            frame: The innermost running module.
        """
        backward = work.flops if running is Pass.BACKWARD else work.backward
        self._flops[running] += work.flops
        if running is Pass.FORWARD:
            label = f"{rule}: {operator}"
            self._per_module[frame.name if frame else ""][label] += work.flops
            self._per_dtype[dtype] += work.flops
            if frame is not None:
                frame.flops += work.flops
                frame.by_rule[label] += work.flops
        # Gradients that a fused operator computes in the forward are backward work.
        if running is not Pass.RECOMPUTED:
            self._backward_per_dtype[dtype] += backward
        self._flops[Pass.BACKWARD if running is Pass.FORWARD else running] += work.backward
        self._flops[Pass.RECOMPUTED] += work.recomputed
        totals = self._of(operator, rule)
        totals.forward += work.flops if running is Pass.FORWARD else 0
        totals.backward += backward if running is not Pass.RECOMPUTED else 0
        totals.recomputed += work.recomputed + (work.flops if running is Pass.RECOMPUTED else 0)

    def moved(self, running: Pass, traffic: Traffic, operator: str, module: str) -> None:
        """Add one call's bytes.

        Args:
            running: The pass that it ran in.
            traffic: The bytes.
            operator: The operator's name.
            module: The name of the innermost running module.
        """
        totals = self._of(operator, "")
        totals.calls += 1
        totals.read += traffic.read
        totals.written += traffic.written
        if running is Pass.FORWARD:
            self._read[module] += traffic.read
            self._written[module] += traffic.written

    def file_as_thops(self, flops: int, frame: Frame, *, dtype: str) -> None:
        """Use the FLOPs of thop's rule for a module's call, in place of those of its operators.

        Args:
            flops: The FLOPs that thop's rule gives.
            frame: The call.
            dtype: The name of the dtype that the module multiplies, for what its operators did not count.
        """
        self._thop += flops
        self._flops[Pass.FORWARD] += flops - frame.flops
        self._per_dtype[dtype] += flops - frame.flops
        rules = self._per_module[frame.name]
        rules.subtract(frame.by_rule)
        rules[f"thop: {type(frame.module).__name__}"] += flops

    def _of(self, operator: str, rule: str) -> _Totals:
        totals = self._operators.setdefault(operator, _Totals(rule))
        totals.rule = totals.rule or rule
        return totals

    def result(self, *, attention: str) -> FlopCount:
        """The count so far; ``attention`` is the convention that it was made under."""
        forward = self._flops[Pass.FORWARD]
        return FlopCount(
            forward=forward,
            thop=self._thop,
            functional=forward - self._thop,
            backward=self._flops[Pass.BACKWARD] if self.saw_backward else None,
            recomputed=self._flops[Pass.RECOMPUTED] if self.saw_backward else None,
            attention=attention,
            uncounted=tuple(sorted(self.uncounted)),
            rule_errors=tuple(sorted(self.rule_errors)),
            notes=tuple(sorted(self.notes)),
            per_module=_positive({name: rules.total() for name, rules in self._per_module.items()}),
            per_rule=_positive(sum(self._per_module.values(), Counter())),
            rules_of={name: tuple(_positive(rules)) for name, rules in self._per_module.items() if rules.total()},
            per_dtype=_positive(self._per_dtype),
            backward_per_dtype=_positive(self._backward_per_dtype),
            per_operator={name: self._count_of(totals) for name, totals in self._operators.items()},
            bytes_per_module={name: Traffic(read, self._written[name]) for name, read in self._read.items()},
        )

    @staticmethod
    def _count_of(totals: _Totals) -> OperatorCount:
        return OperatorCount(
            rule=totals.rule or None,
            calls=totals.calls,
            forward=totals.forward,
            backward=totals.backward,
            recomputed=totals.recomputed,
            bytes_read=totals.read,
            bytes_written=totals.written,
        )


def _positive(flops: Counter[str] | dict[str, int]) -> dict[str, int]:
    return {name: number for name, number in flops.items() if number}
