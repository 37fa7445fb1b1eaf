"""One run's measurements, joined: tokens, FLOPs, seconds and the peak. Knows no trainer."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from torch import nn

from mfu_callback.clock import StepClock
from mfu_callback.flops import FlopCount, FlopCounter
from mfu_callback.flops.per_shape import UNKNOWN, BatchShape, CountsByShape, TrainingFlops, form_of, shape_of
from mfu_callback.goodput import WallTime
from mfu_callback.ledger import Ledger
from mfu_callback.metrics import Window
from mfu_callback.peaks import Peak
from mfu_callback.summary import Summary
from mfu_callback.tokens import count_real_tokens, count_samples, count_tokens
from mfu_callback.totals import Amounts, Totals
from mfu_callback.user_functions import UserFunctions

_MOST_FORMS = 1_000

FlopsArgument = str | float | Callable[[Any], float]
TokensArgument = int | Callable[[Any], int] | None


@dataclass(slots=True)
class _Facts:
    """What all batches of one form have in common, kept because finding it takes longer than the rest of a step.

    The shape is there where FLOPs are counted, and the FLOPs once they were; what is unknown is NaN or None.
    """

    tokens: float = math.nan
    samples: float = math.nan
    has_mask: bool = False
    shape: BatchShape | None = None
    flops: TrainingFlops | None = UNKNOWN


class MFUMeter:
    """Measures one training run on one device, step by step.

    A step is begun, given its micro-batches, and ended; the first ones are warm-up and leave no trace in the totals.
    A micro-batch is looked at first, counted if its FLOPs are not known yet, and added once it runs.

    Args:
        clock: What times the steps; its phases are entered by whoever drives the run.
        device: Whose memory is reported.
        flops: A counter of `FlopCounter`, training FLOPs per token, or a callable from a batch to its training FLOPs.
        backward_factor: FLOPs of a backward pass over those of its forward pass, or "measured".
        attention: The convention for attention, "full" or "causal".
        tokens: Tokens of every batch, a callable from a batch to its tokens, or None to count them.
        peak: What MFU is measured against.
        sync: When the device is waited for: one of `mfu_callback.ledger.SYNCS`.
        warmup_steps: How many steps to leave out.
        wall: The wall time of the whole run, if it began earlier.
    """

    def __init__(
        self,
        *,
        clock: StepClock,
        device: torch.device,
        flops: FlopsArgument = "thop",
        backward_factor: float | str = 2.0,
        attention: str = "full",
        tokens: TokensArgument = None,
        peak: Peak | None = None,
        sync: str = "step",
        warmup_steps: int = 3,
        wall: WallTime | None = None,
    ) -> None:
        self.clock = clock
        self.measure_against(peak)
        self.flop_count: FlopCount | None = None
        self.counts = CountsByShape(self._training_flops)
        self._device = device
        self._flops = flops
        self._backward_factor = backward_factor
        self._attention = attention
        self._tokens = tokens
        self._steps_to_skip = warmup_steps
        self._batch = _Facts()
        self._real_tokens: torch.Tensor | None = None
        self._is_new_batch = False
        self._step = Amounts()
        self._facts: dict[Hashable, _Facts] = {}
        self._functions = UserFunctions()
        self._is_counting = False
        self._wall = wall or WallTime()
        self._ledger = Ledger(clock, sync=sync, wall=self._wall)

    def begin_step(self) -> None:
        """Start a step."""
        self._step = Amounts()
        self._ledger.begin_step()

    def look_at(self, batch: Any) -> None:
        """Take the micro-batch that is next; it is not kept."""
        self._is_new_batch = True
        try:
            form = form_of(batch)
            self._batch = self._facts.get(form) or self._facts_of(batch, form)
            self._real_tokens = count_real_tokens(batch) if self._batch.has_mask else None
        except Exception as error:  # whatever an object of the user's may do when it is looked at
            self._batch, self._real_tokens = _Facts(), None
            self._functions.warn_once(
                "batch",
                f"The batch could not be read ({type(error).__name__}: {error}), so tokens, samples and FLOPs are left"
                " out. Pass tokens= and flops= as functions of the batch.",
            )

    def _facts_of(self, batch: Any, form: Hashable) -> _Facts:
        tokens, samples = self.tokens_of(batch), count_samples(batch)
        is_counted = isinstance(self._flops, str)
        facts = _Facts(
            tokens=math.nan if tokens is None else tokens,
            samples=math.nan if samples is None else samples,
            has_mask=count_real_tokens(batch) is not None,
            shape=shape_of(batch) if is_counted else None,
            flops=None if is_counted else self._given_flops(batch, tokens),
        )
        if not callable(self._tokens) and not callable(self._flops):
            if len(self._facts) >= _MOST_FORMS:
                self._facts.clear()
            self._facts[form] = facts
        return facts

    def model_is(self, state: Hashable) -> None:
        """Say in which state the model is: counts that were made in one (with frozen parts, say) hold for it alone."""
        if state != self.counts.model_state:
            self.counts.model_state = state
            for facts in (self._batch, *self._facts.values()):
                facts.flops = facts.flops if facts.shape is None else None

    @property
    def needs_count(self) -> bool:
        """Whether the FLOPs of the micro-batch that was looked at have to be counted."""
        batch = self._batch
        return batch.flops is None and batch.shape is not None and self.counts.needs_count(batch.shape)

    def counter(self, module: nn.Module) -> FlopCounter:
        """What counts the module's forward and backward in a ``with`` block; the step is left out of the totals.

        Raises:
            ValueError: If FLOPs are given, so that there is nothing to count.
        """
        if not isinstance(self._flops, str):
            raise ValueError("FLOPs are given by flops=, so there is nothing to count.")
        self._is_counting = True
        return FlopCounter(module, counter=self._flops, attention=self._attention)

    def set_count(self, count: FlopCount | None) -> bool:
        """Take the count of the micro-batch that was looked at; None where it failed.

        Returns:
            Whether its FLOPs are known now, or will be counted once more.
        """
        assert self._batch.shape is not None
        if count is None:
            self.counts.give_up(self._batch.shape)
            return False
        if self.flop_count is None or not self.flop_count.forward:
            self.flop_count = count
        return self.counts.add(self._batch.shape, count)

    @property
    def conventions(self) -> str:
        """The conventions of the count, in words."""
        factor = self._backward_factor if isinstance(self._backward_factor, str) else f"{self._backward_factor:g} x"
        return f"attention {self._attention}, backward {factor}"

    def factor_error(self, count: FlopCount) -> float | None:
        """By which share the training FLOPs are off by taking a constant factor; None where that is not known."""
        if isinstance(self._backward_factor, str) or not count.backward:
            return None
        return count.forward * (1 + self._backward_factor) / (count.forward + count.backward) - 1

    def add_forward(self) -> None:
        """Add a forward and backward of the micro-batch that was looked at; its tokens once, however often it runs."""
        batch, step = self._batch, self._step
        if self._is_new_batch:
            self._is_new_batch = False
            step.tokens += batch.tokens
            step.samples += batch.samples
            step.real_tokens.append(self._real_tokens)
        flops = batch.flops or self._counted_flops()
        step.flops += flops.model
        step.recomputed_flops += flops.recomputed

    def end_step(self) -> None:
        """End the step: it joins the totals, unless it is warm-up or a step in which FLOPs were counted."""
        part = "counting" if self._is_counting else "warmup" if self._steps_to_skip else "training"
        self._ledger.end_step(self._step, part)
        if self._steps_to_skip:
            self._steps_to_skip -= 1
        self._is_counting = False

    def tokens_of(self, batch: Any) -> int | None:
        """Tokens of a batch, or None where it has none."""
        if callable(self._tokens):
            tokens = self._functions.ask("tokens=", self._tokens, batch)
            return None if tokens is None else int(tokens)
        return count_tokens(batch) if self._tokens is None else self._tokens

    def measure_against(self, peak: Peak | None, achievable: Peak | None = None) -> None:
        """Take the peaks that what is logged from now on is measured against.

        Args:
            peak: What MFU is measured against.
            achievable: The measured peak; by default `peak`, if it was measured.
        """
        self.peak = peak
        self.achievable = peak if achievable is None and peak is not None and peak.is_measured else achievable

    def take_window(self) -> Totals:
        """The totals since the last call."""
        return replace(self._ledger.take_window(), **self._device_state())

    def run_totals(self, *, wait: bool = True) -> Totals:
        """The totals of the whole run.

        Args:
            wait: Whether to wait for the device to end its last steps.
        """
        return replace(self._ledger.run_totals(wait=wait), **self._device_state())

    def summary(self, ranks: list[Totals]) -> Summary:
        """What the run came to, from the run totals of all devices."""
        if not all(rank.steps for rank in ranks):
            return Summary(
                steps=0,
                flops=self.flop_count,
                peak=self.peak,
                achievable=self.achievable,
                wall_time_sec=self._wall.until_now(),
            )
        run = Window(ranks=tuple(ranks))
        tokens = sum(rank.tokens for rank in ranks)
        return Summary(
            steps=int(ranks[0].steps),
            tokens=None if math.isnan(tokens) else int(tokens),
            tokens_per_sec=run.tokens_per_sec,
            real_tokens_per_sec=run.real_tokens_per_sec,
            samples_per_sec=run.samples_per_sec,
            step_time_sec=median(self._ledger.step_times),
            step_time_sec_min=run.step_time_sec_min,
            step_time_sec_max=run.step_time_sec_max,
            phases_sec=run.phases_sec,
            mfu=run.mfu,
            mfu_achievable=run.mfu_achievable,
            hfu=run.hfu,
            flops=self.flop_count,
            conventions=self.conventions if self.flop_count is not None else None,
            peak=self.peak,
            achievable=self.achievable,
            waterfall=run.waterfall,
            wall_time_sec=self._wall.until_now(),
        )

    def _counted_flops(self) -> TrainingFlops:
        batch = self._batch
        assert batch.shape is not None
        flops = self.counts.flops(batch.shape)
        if not self.counts.needs_count(batch.shape):
            batch.flops = flops
        return flops

    def _training_flops(self, count: FlopCount) -> TrainingFlops | None:
        if not count.forward:
            return None
        recomputed = math.nan if count.recomputed is None else count.recomputed
        if not isinstance(self._backward_factor, str):
            return TrainingFlops(count.forward * (1 + self._backward_factor), recomputed)
        return None if not count.backward else TrainingFlops(count.forward + count.backward, recomputed)

    def _given_flops(self, batch: Any, tokens: int | None) -> TrainingFlops:
        if isinstance(self._flops, str):
            return UNKNOWN
        if callable(self._flops):
            flops = self._functions.ask("flops=", self._flops, batch)
            return UNKNOWN if flops is None else TrainingFlops(flops)
        return UNKNOWN if tokens is None else TrainingFlops(float(self._flops) * tokens)

    def _device_state(self) -> dict[str, float]:
        return {
            "peak_memory_bytes": self._peak_memory_bytes(),
            "peak_flops_per_sec": math.nan if self.peak is None else self.peak.flops_per_sec,
            "achievable_flops_per_sec": math.nan if self.achievable is None else self.achievable.flops_per_sec,
        }

    def _peak_memory_bytes(self) -> float:
        if self._device.type == "cpu":
            return math.nan
        with suppress(RuntimeError):  # not every accelerator keeps statistics
            return torch.accelerator.max_memory_allocated(self._device) or math.nan
        return math.nan
