"""The result of a count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mfu_callback.flops.rules.traffic import Traffic
from mfu_callback.flops.table import as_text, module_table, operator_table


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorCount:
    """What all calls of one operator did, in the forward and in what was watched of the backward pass.

    Attributes:
        rule: Who gives the rule that counted it: "mfu-callback", "register_flop_formula", "torch.utils.flop_counter";
            None if it has none (it computes no model FLOPs, or is among the uncounted).
        calls: Number of calls.
        forward: Forward FLOPs.
        backward: Backward FLOPs.
        recomputed: FLOPs that ran a second time.
        bytes_read: Bytes of the tensors that it read (:mod:`mfu_callback.flops.rules.traffic` has the conventions).
        bytes_written: Bytes of the tensors that it wrote.
    """

    rule: str | None
    calls: int
    forward: int
    backward: int
    recomputed: int
    bytes_read: int
    bytes_written: int

    def of_one(self, calls: int) -> OperatorCount:
        """The count of one training step, from the count of several equal ones."""
        return replace(
            self,
            calls=self.calls // calls,
            forward=self.forward // calls,
            backward=self.backward // calls,
            recomputed=self.recomputed // calls,
            bytes_read=self.bytes_read // calls,
            bytes_written=self.bytes_written // calls,
        )


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
        per_rule: Forward FLOPs by the rule that counted them: "thop: Linear", "mfu-callback: aten::bmm",
            "torch.utils.flop_counter: natten::na2d_forward", "register_flop_formula: mylib::attention". Sums to
            ``forward``.
        rules_of: The rules that counted each module of ``per_module``.
        per_operator: FLOPs and bytes by the operator's name, or by the name of a class or kernel with a formula.
        bytes_per_module: Bytes that the operators of the forward read and wrote, by the innermost module.
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
    per_rule: Mapping[str, int] = field(default_factory=dict, compare=False)
    rules_of: Mapping[str, tuple[str, ...]] = field(default_factory=dict, compare=False)
    per_operator: Mapping[str, OperatorCount] = field(default_factory=dict, compare=False)
    bytes_per_module: Mapping[str, Traffic] = field(default_factory=dict, compare=False)
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
            per_module=_divided(self.per_module, calls),
            per_rule=_divided(self.per_rule, calls),
            per_operator={name: count.of_one(calls) for name, count in self.per_operator.items()},
            bytes_per_module={
                name: Traffic(read // calls, written // calls)
                for name, (read, written) in self.bytes_per_module.items()
            },
            per_dtype=_divided(self.per_dtype, calls),
            backward_per_dtype=_divided(self.backward_per_dtype, calls),
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
        table = module_table(self.per_module, self.forward, self.rules_of)
        return as_text([table], [line for line in lines if line is not None])

    def operators(self) -> str:
        """A table of the operators as text: calls, FLOPs, bytes, and who gives the rule."""
        return as_text([operator_table(self.per_operator)], [])


def _divided(flops: Mapping[str, int], calls: int) -> dict[str, int]:
    return {name: number // calls for name, number in flops.items()}
