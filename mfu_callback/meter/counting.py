"""Counts the FLOPs of each batch shape in the step that trains on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from torch import nn

from mfu_callback.flops import FlopCount, FlopCounter
from mfu_callback.flops.rules.thop import conflict_with_thop, why_no_thop
from mfu_callback.flops.table import shares_of_rules
from mfu_callback.meter.messages import Messages
from mfu_callback.meter.meter import RunMeter
from mfu_callback.meter.metrics import Window
from mfu_callback.meter.pipelines import PipelineTrial
from mfu_callback.meter.recounts import Recounts

# Relative error of the training FLOPs above which a wrong backward factor is worth a warning.
_TOLERANCE = 0.05
_SMALLEST_MFU = 0.01  # below it, nobody minds half of it
_MOST_TRIALS = 3  # counts that are made again because a pipeline tried its stages in them
_MOST_SKIPPED = 32  # counts that are made again because their batch was skipped


class Counting:
    """Counts FLOPs in the steps whose FLOPs are not known yet, and reports the result.

    Args:
        meter: Knows which steps must be counted, and stores the counts.
        module: The model.
        messages: Says what was counted.
        warn_once: Warns of a count with a message, once per subject.
        on_first_count: Called with the first count that found any FLOPs.

    Attributes:
        look_at: The number of ended steps from which on `is_due` must be asked, also of a batch whose FLOPs are known.
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
        self._trials = self._skipped = 0
        self._stop: Callable[[], None] = lambda: None
        self._is_skipped = self._was_stopped = self._is_refused = False
        self._state_is_known = False
        self._note: str | None = None  # on the backward pass, to be told where it matters
        self._has_noted = False
        self._recounts = Recounts()
        self.look_at = 0

    def note_on_backward(self, window: Window) -> None:
        """Say once what a model of few layers takes for its backward pass, if MFU is large enough to be read.

        Args:
            window: The figures of some steps.
        """
        if self._note is not None and not self._has_noted and (window.mfu or 0) >= _SMALLEST_MFU:
            self._has_noted = True
            self._inform(self._note)

    def forget_state(self) -> None:
        """Check again at the next batch which parameters are frozen."""
        self._state_is_known = False
        self.look_at = 0

    def is_due(self) -> bool:
        """Whether the batch in hand must be counted; asked once before it runs."""
        if not self._state_is_known:
            self._meter.flops.set_model_state(hash(tuple(p.requires_grad for p in self._module.parameters())))
            self._state_is_known = True
        flops = self._meter.flops
        if self._is_refused and flops.needs_count:
            flops.take(None)
        needs_count = flops.needs_count
        flops.is_recounted = not needs_count and not self._is_refused and self._is_due_again()
        self._warn_of_estimates()
        self.look_at = self._recounts.at
        return needs_count or flops.is_recounted

    def _is_due_again(self) -> bool:
        """Whether the batch in hand is counted again, to see whether it does the same work."""
        flops, ledger, recounts = self._meter.flops, self._meter.ledger, self._recounts
        known = flops.repeated
        if not recounts.is_due(ledger.ended, is_warm=ledger.is_warm) or known is None:
            return False
        recounts.choose_next(ledger.ended, vary=known.vary, counts=len(known.counts), error=known.error)
        return True

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
        if self._is_skipped and self._skipped < _MOST_SKIPPED:
            self._skipped += 1
            self._meter.flops.is_recounted = False
            return
        if trial.was_seen or self._was_stopped:
            counter = None
        if counter is not None:
            self._learn_tokens(counter)
        if trial.was_seen and self._counts_again():
            self._meter.flops.is_recounted = False
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

    def _learn_tokens(self, counter: FlopCounter) -> None:
        """Learn which tensors are tokens, unless the layer that looks them up may be elsewhere or was not seen."""
        if self._meter.conventions.counts_own_part:
            return
        with suppress(Exception):  # reading a user's own object may raise anything
            if counter.lookups or counter.result().complete:
                said = self._meter.batches.learn_tokens(counter.lookups)
                if said is not None:
                    self._inform(f"{said}.")

    def skip(self) -> None:
        """Say that the batch that is being counted is not trained on after its forward pass: another one is counted."""
        self._is_skipped = True

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
        self._calls, self._is_skipped = 0, False
        try:
            operators, is_recounted = self._meter.operators, self._meter.flops.is_recounted
            if self._meter.is_warm or not is_recounted:  # else it is left out as warm-up
                self._meter.leave_out("counting")
            calls = None if operators is None or is_recounted else operators.calls
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
        was_recounted = self._meter.flops.is_recounted
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
            self._warn_of_no_tensors()
        self._warn_of(count)
        if was_recounted:
            self._warn_of_unequal_work()

    def _report(self, count: FlopCount) -> None:
        self._inform(
            f"{count.forward:.4e} model FLOPs in the forward pass of one batch"
            f" ({count.thop:.4e} by thop's rules, {count.functional:.4e} outside thop's modules),"
            f" {self._meter.conventions}. Counted by {shares_of_rules(count.per_rule)}."
        )
        if self._meter.conventions.flops == "thop" and (why := why_no_thop()) is not None:
            self._inform(
                f"thop could not be imported ({why}), so Linear and Conv modules count by the rules of mfu-callback,"
                " which give the same FLOPs for them. To have thop's share told apart: pip install thop setuptools."
            )
        elif (conflict := conflict_with_thop()) is not None:
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

    def _warn_of_no_tensors(self) -> None:
        shape = self._meter.batches.in_hand.shape
        if shape is not None and not shape.shapes:
            self._warn_once(
                "no tensors",
                "No tensor is found in the batch, so batches cannot be told apart: each counts as those that are"
                " counted, the first ones and ever fewer later, and samples are left out. Pass flops= and tokens= as"
                " functions of the batch for exact figures.",
            )

    def _warn_of_unequal_work(self) -> None:
        known = self._meter.flops.repeated
        if known is None or not known.vary:
            return
        least, most = known.range
        self._warn_once(
            "unequal",
            f"Batches of one shape take between {least:.3g} and {most:.3g} FLOPs, forward and backward, so their work"
            " depends on their values or on the step. A batch counts as the mean of those that are counted, and more of"
            " them are: summary.flops_error tells how far that may be off. Pass flops= as a function of the batch for"
            " exact FLOPs.",
        )

    def _warn_of_estimates(self) -> None:
        """Warn that the FLOPs of some shapes are told by those of others."""
        error = self._meter.flops.error_of_law
        if error is None:
            return
        law = (
            f"follow their sizes by a law that tells each counted one from the others to within {max(error, 1e-4):.2%}"
            if math.isfinite(error)
            else "are scaled from the most similar one by the size of the first tensor, as no law of the sizes fits,"
            " and may be far off; they are unknown if none has the same structure"
        )
        self._warn_once(
            "shapes",
            f"Many shapes of batches were counted, and further ones are not: their FLOPs {law}. Pass flops= as a"
            " function of the batch for exact FLOPs.",
        )

    def _say_of_backward(self, count: FlopCount) -> None:
        off = self._meter.conventions.factor_error(count)
        if off is None or abs(off) <= _TOLERANCE:
            return
        times = f"{count.backward_ratio:.3g}"
        as_many = "as many FLOPs as" if times == "1" else f"{times} times the FLOPs of"
        ratio = f"The backward pass of this model takes {as_many} its forward pass"
        too = f"model FLOPs and MFU are {abs(off):.0%} too {'high' if off > 0 else 'low'}"
        remedy = "Pass backward_factor='measured' to use the backward FLOPs that really run."
        if off > 0 and self._is_short_by_nature(count):
            self._note = (
                f"{ratio}, where {self._meter.conventions.backward_factor} times as many are assumed: a layer whose"
                f" input needs no gradient is a large part of it. So {too}. {remedy}"
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
