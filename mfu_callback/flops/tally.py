"""Sums the FLOPs by pass, module and dtype, and collects what could not be counted."""

from __future__ import annotations

from collections import Counter

from mfu_callback.flops.flop_count import FlopCount
from mfu_callback.flops.passes import Pass
from mfu_callback.flops.rules.call import Work


class Tally:
    """Adds up what a counter sees.

    Attributes:
        uncounted: Names of compute operations without a rule.
        rule_errors: Calls on which a rule of this package failed.
        notes: Remarks on how some calls were counted.
        saw_backward: Whether a backward ran.
    """

    def __init__(self) -> None:
        self.uncounted: set[str] = set()
        self.rule_errors: set[str] = set()
        self.notes: set[str] = set()
        self.saw_backward = False
        self._flops: Counter[Pass] = Counter()
        self._thop = 0
        self._per_module: Counter[str] = Counter()
        self._per_dtype: Counter[str] = Counter()
        self._backward_per_dtype: Counter[str] = Counter()

    def add(self, running: Pass, work: Work, *, module: str, dtype: str) -> None:
        """Add one operator's work.

        Args:
            running: The pass that it ran in.
            work: Its FLOPs.
            module: The name of the innermost module.
            dtype: The name of the dtype that was multiplied.
        """
        self._flops[running] += work.flops
        if running is Pass.FORWARD:
            self._per_module[module] += work.flops
            self._per_dtype[dtype] += work.flops
        elif running is Pass.BACKWARD:
            self._backward_per_dtype[dtype] += work.flops
        # Gradients that a fused operator computes in the forward are backward work.
        self._backward_per_dtype[dtype] += work.backward if running is Pass.FORWARD else 0
        self._flops[Pass.BACKWARD if running is Pass.FORWARD else running] += work.backward
        self._flops[Pass.RECOMPUTED] += work.recomputed

    def file_as_thops(self, flops: int, *, instead_of: int, module: str) -> None:
        """Use the FLOPs of thop's rule for a module's call, in place of those of its operators.

        Args:
            flops: The FLOPs that thop's rule gives.
            instead_of: The FLOPs that the operators of the call have added to the forward.
            module: The name of the module.
        """
        self._thop += flops
        self._flops[Pass.FORWARD] += flops - instead_of
        self._per_module[module] += flops - instead_of

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
            per_module={name: flops for name, flops in self._per_module.items() if flops},
            per_dtype={name: flops for name, flops in self._per_dtype.items() if flops},
            backward_per_dtype={name: flops for name, flops in self._backward_per_dtype.items() if flops},
        )
