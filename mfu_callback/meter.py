"""One run's measurements, joined: tokens, FLOPs, seconds and the peak. Knows no trainer."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import nn

from mfu_callback.clock import StepClock
from mfu_callback.flops import FlopCount, FlopCounter
from mfu_callback.flops.per_shape import UNKNOWN, BatchShape, CountsByShape, TrainingFlops, shape_of
from mfu_callback.goodput import WallTime
from mfu_callback.ledger import Ledger
from mfu_callback.metrics import Window
from mfu_callback.peaks import Peak
from mfu_callback.summary import Summary
from mfu_callback.tokens import count_real_tokens, count_samples, count_tokens
from mfu_callback.totals import Amounts, Totals
from mfu_callback.user_functions import UserFunctions

_MOST_FACTS = 1_000

FlopsArgument = str | float | Callable[[Any], float]
TokensArgument = int | Callable[[Any], int] | None


class _Batch(NamedTuple):
    """What is known of the micro-batch that is running: its shape where FLOPs are counted, its FLOPs where given."""

    tokens: int | None = None
    real_tokens: torch.Tensor | None = None
    samples: int | None = None
    shape: BatchShape | None = None
    flops: TrainingFlops = UNKNOWN


class _Facts(NamedTuple):
    """What every batch of one shape has in common, kept because finding it takes longer than the rest of a step."""

    tokens: int | None
    has_mask: bool


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
        self._batch = _Batch()
        self._step = Amounts()
        self._facts: dict[BatchShape, _Facts] = {}
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
        try:
            self._batch = self._known_of(batch)
        except Exception as error:  # whatever an object of the user's may do when it is looked at
            self._batch = _Batch()
            self._functions.warn_once(
                "batch",
                f"The batch could not be read ({type(error).__name__}: {error}), so tokens, samples and FLOPs are left"
                " out. Pass tokens= and flops= as functions of the batch.",
            )

    def _known_of(self, batch: Any) -> _Batch:
        shape = shape_of(batch) if isinstance(self._flops, str) else None
        facts = None if shape is None else self._facts.get(shape)
        real_tokens = count_real_tokens(batch) if facts is None or facts.has_mask else None
        if facts is None:
            facts = _Facts(tokens=self.tokens_of(batch), has_mask=real_tokens is not None)
            if shape is not None and not callable(self._tokens) and len(self._facts) < _MOST_FACTS:
                self._facts[shape] = facts
        return _Batch(
            tokens=facts.tokens,
            real_tokens=real_tokens,
            samples=count_samples(batch),
            shape=shape,
            flops=self._given_flops(batch, facts.tokens),
        )

    @property
    def needs_count(self) -> bool:
        """Whether the FLOPs of the micro-batch that was looked at have to be counted."""
        return self._batch.shape is not None and self.counts.needs_count(self._batch.shape)

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

    def add_batch(self) -> None:
        """Add the micro-batch that was looked at to the step: once, however often its forward runs."""
        batch = self._batch
        self._step.tokens += math.nan if batch.tokens is None else batch.tokens
        self._step.samples += math.nan if batch.samples is None else batch.samples
        self._step.real_tokens.add(batch.real_tokens)

    def add_forward(self) -> None:
        """Add the FLOPs of one forward and backward of that micro-batch."""
        flops = self._batch.flops if self._batch.shape is None else self.counts.flops(self._batch.shape)
        self._step.flops += flops.model
        self._step.recomputed_flops += flops.recomputed

    def end_step(self) -> None:
        """End the step: it joins the totals, unless it is warm-up or a step in which FLOPs were counted."""
        part = "counting" if self._is_counting else "warmup" if self._steps_to_skip > 0 else "training"
        self._ledger.end_step(self._step, part)
        self._steps_to_skip = max(self._steps_to_skip - 1, 0)
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
