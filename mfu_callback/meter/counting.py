"""Counts the FLOPs of each batch shape in the step that trains on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from torch import nn

from mfu_callback.flops import FlopCount, FlopCounter
from mfu_callback.flops.rules.thop import conflict_with_thop
from mfu_callback.flops.table import shares_of_rules
from mfu_callback.meter.messages import Messages
from mfu_callback.meter.meter import RunMeter
from mfu_callback.meter.pipelines import PipelineTrial

# Relative error of the training FLOPs above which a wrong backward factor is worth a warning.
_TOLERANCE = 0.05
_MOST_TRIALS = 3  # counts that are made again because a pipeline tried its stages in them


class Counting:
    """Counts FLOPs in the steps whose FLOPs are not known yet, and reports the result.

    Args:
        meter: Knows which steps must be counted, and stores the counts.
        module: The model.
        messages: Says what was counted.
        warn_once: Warns of a count with a message, once per subject.
        on_first_count: Called with the first count that found any FLOPs.
    """

    def __init__(
        self,
        meter: RunMeter,
        module: nn.Module,
        messages: Messages,
        warn_once: Callable[[str, str], None],
        on_first_count: Callable[[FlopCount], None],
    ) -> None:
        self._meter = meter
        self._module = module
        self._inform = messages.inform
        self._warn_once = warn_once
        self._on_first_count = on_first_count
        self._counter: FlopCounter | None = None
        self._calls = 0
        self._trials = 0
        self._stop: Callable[[], None] = lambda: None
        self._was_stopped = self._is_refused = False
        self._state_is_known = False
        self._has_noted = False

    def forget_state(self) -> None:
        """Check again at the next batch which parameters are frozen."""
        self._state_is_known = False

    def is_due(self) -> bool:
        """Whether the batch in hand must be counted; asked once before it runs."""
        if not self._state_is_known:
            self._meter.flops.set_model_state(hash(tuple(p.requires_grad for p in self._module.parameters())))
            self._state_is_known = True
        if self._is_refused and self._meter.flops.needs_count:
            self._meter.flops.take(None)
        return self._meter.flops.needs_count

    @property
    def is_on(self) -> bool:
        """Whether what runs now is being counted."""
        return self._counter is not None

    @contextmanager
    def batch(self, *, passes: int | None = None) -> Iterator[None]:
        """A context that counts the forward passes, backward passes and the optimizer step of one batch.

        Args:
            passes: How often the batch runs in it. None takes the number of `forward` contexts inside, and outside of
                them work without gradients is not the model's.
        """
        with ExitStack() as stack:
            trial = stack.enter_context(PipelineTrial())
            counter = self._counter = self._enter_counter(stack, in_forward=passes is not None)
            stack.callback(self._leave_counter)
            self._stop, self._was_stopped = stack.close, False
            yield
        if trial.was_seen or self._was_stopped:
            counter = None
        if trial.was_seen and self._counts_again():
            return
        try:
            self._take_count(None if counter is None else counter.result().of_one(passes or self._calls))
        except Exception as error:  # what it is about has run, and ends no run
            self._say_failed(error)
            self._meter.flops.take(None)

    @contextmanager
    def forward(self) -> Iterator[None]:
        """A context for one forward pass of the batch that is being counted; an optimizer may run several."""
        if self._counter is None:  # it could not be entered
            yield
            return
        self._calls += 1
        with self._counter.forward_only_inside():
            yield

    def stop(self) -> None:
        """Give up the count of the batch that is being counted: what follows in it runs as it would without us."""
        self._was_stopped = True
        self._stop()

    def refuse(self, error: Exception) -> None:
        """Count no further batch: the model has run after a stopped count, but not in it.

        Args:
            error: What it raised in the count.
        """
        self._is_refused = True
        self._warn_once(
            "refused",
            f"The model does not run while its FLOPs are counted ({type(error).__name__}: {error}). It had changed"
            " nothing by then and has run again without. MFU is left out, tokens/sec is still logged. Pass flops= per"
            " token to get MFU.",
        )

    def _counts_again(self) -> bool:
        """Whether the batch is counted again because its step also ran a pipeline's trial; not for ever."""
        self._trials += 1
        if self._trials <= _MOST_TRIALS:
            return True
        self._warn_once(
            "trials",
            "The pipeline tries its stages with a micro-batch in every step that counts FLOPs, which would count as the"
            " model's. So MFU is left out, tokens/sec is still logged. Make the stages once and keep them, give them"
            " input_args= and output_args=, or pass flops= per token.",
        )
        return False

    def _enter_counter(self, stack: ExitStack, *, in_forward: bool) -> FlopCounter | None:
        self._calls = 0
        try:
            self._meter.leave_out("counting")
            operators = self._meter.operators
            calls = None if operators is None else operators.calls
            counter = self._meter.conventions.counter(self._module, calls)
            counter.in_forward = in_forward
            return stack.enter_context(counter)
        except Exception as error:  # such as a private name that this version of torch lacks
            self._say_failed(error)
            return None

    def _say_failed(self, error: Exception) -> None:
        self._warn_once(
            "count",
            f"FLOPs could not be counted ({type(error).__name__}: {error}). MFU is left out, tokens/sec is"
            " still logged. Pass flops= per token to get MFU.",
        )

    def _leave_counter(self) -> None:
        self._counter = None

    def _take_count(self, count: FlopCount | None) -> None:
        before = self._meter.flops.first
        is_first = before is None or not before.forward
        if not self._meter.flops.take(count) and count is not None and count.complete:
            self._warn_once(
                "nothing",
                "No model FLOPs were seen in three batches of one shape: no matmul, convolution or attention, or, with"
                " backward_factor='measured', no backward pass of one. MFU is left out, tokens/sec is still logged."
                " Pass flops= per token to get MFU.",
            )
        if count is None:
            return
        if is_first and count.forward:
            self._report(count)
            self._on_first_count(count)
        self._warn_of(count)

    def _report(self, count: FlopCount) -> None:
        self._inform(
            f"{count.forward:.4e} model FLOPs in the forward pass of one batch"
            f" ({count.thop:.4e} by thop's rules, {count.functional:.4e} outside thop's modules),"
            f" {self._meter.conventions}. Counted by {shares_of_rules(count.per_rule)}."
        )
        if (conflict := conflict_with_thop()) is not None:
            self._warn_once("thop", conflict)

    def _warn_of(self, count: FlopCount) -> None:
        if count.uncounted:
            self._warn_once(
                "uncounted",
                f"No FLOP rule covers {', '.join(count.uncounted)}, so the FLOP count and MFU are too low."
                " Give what is named a formula with mfu_callback.register_flop_formula, or pass flops= per token to"
                " correct them.",
            )
        if count.rule_errors:
            self._warn_once(
                "rule errors",
                "A FLOP rule of mfu-callback failed. This is a bug in mfu-callback, not in your model:"
                f" {'; '.join(count.rule_errors)}. The FLOP count and MFU are too low. Pass flops= per token to"
                " correct them, and please report this line.",
            )
        for note in count.notes:
            self._warn_once(note, f"FLOPs: {note}.")
        self._say_of_backward(count)
        if self._meter.flops.is_full:
            self._warn_once(
                "shapes",
                "Many shapes of batches were counted, and further ones are not: their FLOPs are scaled from the most"
                " similar counted shape by the size of the first tensor. They may be off by the share of attention in"
                " them, and are unknown if no counted shape has the same structure. Pass flops= as a function of the"
                " batch for exact FLOPs.",
            )

    def _say_of_backward(self, count: FlopCount) -> None:
        off = self._meter.conventions.factor_error(count)
        if off is None or abs(off) <= _TOLERANCE:
            return
        ratio = f"The backward pass of this model takes {count.backward_ratio:.3g} times the FLOPs of its forward pass"
        too = f"model FLOPs and MFU are {abs(off):.0%} too {'high' if off > 0 else 'low'}"
        remedy = "Pass backward_factor='measured' to use the backward FLOPs that really run."
        if off > 0 and self._is_short_by_nature(count):
            self._note_once(
                f"{ratio}: one layer, whose input needs no gradient, is a large part of it. So {too}. {remedy}"
            )
            return
        self._warn_once(
            "backward factor",
            f"{ratio} (frozen parts and the input get no gradients; gradients computed inside the step add FLOPs), so"
            f" {too}. {remedy}",
        )

    def _is_short_by_nature(self, count: FlopCount) -> bool:
        """Whether nothing but the gradient of one layer's input is missing, and every parameter is trained.

        That gradient takes as many FLOPs as the layer's forward pass.
        """
        if count.backward is None or not all(parameter.requires_grad for parameter in self._module.parameters()):
            return False
        missing = 2 * count.forward - count.backward
        return any(math.isclose(flops, missing, rel_tol=0.01) for flops in count.per_module.values())

    def _note_once(self, message: str) -> None:
        if not self._has_noted:
            self._has_noted = True
            self._inform(message)
