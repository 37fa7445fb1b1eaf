"""The result of a count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mfu_callback.flops.table import as_text, module_table


@dataclass(frozen=True, slots=True, kw_only=True)
class FlopCount:
    """Model FLOPs of one forward pass of one batch, and of its backward pass if that was watched.

    Model FLOPs are the multiplications and additions of matmuls, convolutions and recurrent cells that the model's
    mathematics needs (PaLM, appendix B, https://arxiv.org/abs/2204.02311). Norms, activations, embedding look-ups and
    recomputation are not counted. One multiply-accumulate is 2 FLOPs.

    ``print`` shows a table of the modules (:func:`mfu_callback.flops.table.module_table`).

    Attributes:
        forward: All model FLOPs of the forward pass; ``thop + functional``.
        thop: The part that thop's module rules counted.
        functional: The part that ran outside those modules: attention, functional calls, and the modules for which
            thop's rule is wrong.
        backward: Model FLOPs of the backward pass, or None if none was watched.
        recomputed: FLOPs that ran a second time (activation checkpointing, the scores in a fused attention's
            backward), or None if no backward pass was watched.
        attention: The convention for attention: "full" counts the whole T x S square, "causal" only the pairs that
            attend.
        uncounted: Names of the work that could not be counted: operations without a rule, compiled code that could not
            be replayed, memory filled outside of torch's operators; empty when the count is complete.
        rule_errors: Operator calls, with their shapes, on which a rule failed. They are bugs of this package and
            should be reported; empty when the count is complete.
        notes: Remarks on how some calls were counted.
        per_module: FLOPs by the name of the innermost module that they ran in; "" is the module itself. Sums to
            ``forward``.
        per_dtype: FLOPs of the forward operators by the dtype that they multiply ("bfloat16"); for complex numbers, the
            dtype of their parts. Empty if no operator was counted.
        backward_per_dtype: As above, of the backward operators. Empty if no backward pass was watched.
    """

    forward: int
    thop: int
    functional: int
    backward: int | None = None
    recomputed: int | None = None
    attention: str = "full"
    uncounted: tuple[str, ...] = ()
    rule_errors: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    per_module: Mapping[str, int] = field(default_factory=dict, compare=False)
    per_dtype: Mapping[str, int] = field(default_factory=dict, compare=False)
    backward_per_dtype: Mapping[str, int] = field(default_factory=dict, compare=False)

    @property
    def complete(self) -> bool:
        """Whether every compute operation had a rule, and no rule failed."""
        return not self.left_out

    @property
    def left_out(self) -> tuple[str, ...]:
        """Everything that was not counted: operations without a rule, and calls on which a rule failed."""
        return (*self.uncounted, *self.rule_errors)

    @property
    def backward_ratio(self) -> float | None:
        """Backward FLOPs over forward FLOPs, or None if no backward pass was watched."""
        return None if self.backward is None or not self.forward else self.backward / self.forward

    def of_one(self, calls: int) -> FlopCount:
        """The count of one call, from the count of several equal calls."""
        if calls <= 1:
            return self
        return replace(
            self,
            forward=self.forward // calls,
            thop=self.thop // calls,
            functional=self.functional // calls,
            backward=None if self.backward is None else self.backward // calls,
            recomputed=None if self.recomputed is None else self.recomputed // calls,
            per_module={name: flops // calls for name, flops in self.per_module.items()},
            per_dtype={name: flops // calls for name, flops in self.per_dtype.items()},
            backward_per_dtype={name: flops // calls for name, flops in self.backward_per_dtype.items()},
        )

    def __str__(self) -> str:
        """The table of the modules, the backward pass if it was watched, and what was left out."""
        ratio = self.backward_ratio
        lines = [
            f"by thop's rules {self.thop:.4e}, outside of them {self.functional:.4e}; attention: {self.attention}",
            None if ratio is None else f"backward {self.backward:.4e}, {ratio:.3f} x forward",
            None if not self.recomputed else f"recomputed {self.recomputed:.4e}",
            None if self.complete else f"not counted: {', '.join(self.left_out)}",
            *(f"note: {note}" for note in self.notes),
        ]
        return as_text(module_table(self.per_module, self.forward), [line for line in lines if line is not None])
