"""One run's measurements, joined: tokens, FLOPs, seconds and the peak. Knows no trainer."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from torch import nn

from mfu_callback.flops import FlopCount, FlopCounter
from mfu_callback.flops.per_shape import CountsByShape, TrainingFlops
from mfu_callback.meter.batches import Batch, Batches, FlopsArgument, TokensArgument, flops_in_words
from mfu_callback.meter.clock import StepClock
from mfu_callback.meter.goodput import WallTime
from mfu_callback.meter.ledger import Ledger
from mfu_callback.meter.metrics import Window
from mfu_callback.meter.module_times import ModuleTimes
from mfu_callback.meter.per_module import ModuleFigures, figures_per_module
from mfu_callback.meter.summary import Summary
from mfu_callback.meter.totals import Amounts, Totals
from mfu_callback.peaks import Peak


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
        sync: When the device is waited for: one of `mfu_callback.meter.ledger.SYNCS`.
        warmup_steps: How many steps to leave out.
        tensor_parallel: How many devices share the work on every batch; this one is credited with its part.
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
        tensor_parallel: int = 1,
        wall: WallTime | None = None,
    ) -> None:
        self.clock = clock
        self.counted_by = flops_in_words(flops)
        self.measure_against(peak)
        self.flop_count: FlopCount | None = None
        self.counts = CountsByShape(self._training_flops)
        self._device = device
        self._flops = flops
        self._backward_factor = backward_factor
        self._attention = attention
        self._steps_to_skip = warmup_steps
        self._tensor_parallel = tensor_parallel
        self._batches = Batches(flops, tokens)
        self._batch = Batch()
        self._real_tokens: torch.Tensor | None = None
        self._is_new_batch = False
        self._step = Amounts()
        self._left_out_as: str | None = None
        self.module_times: ModuleTimes | None = None
        self._wall = wall or WallTime()
        self._ledger = Ledger(clock, sync=sync, wall=self._wall)

    def begin_step(self) -> None:
        """Start a step."""
        self._step = Amounts()
        self._ledger.begin_step()

    def look_at(self, batch: Any) -> None:
        """Take the micro-batch that is next; it is not kept."""
        self._is_new_batch = True
        self._batch, self._real_tokens = self._batches.look_at(batch)

    def model_is(self, state: Hashable) -> None:
        """Say in which state the model is: counts that were made in one (with frozen parts, say) hold for it alone."""
        if state != self.counts.model_state:
            self.counts.model_state = state
            self._batches.forget_counted_flops()

    @property
    def needs_count(self) -> bool:
        """Whether the FLOPs of the micro-batch that was looked at have to be counted."""
        batch = self._batch
        return batch.flops is None and batch.shape is not None and self.counts.needs_count(batch.shape)

    @property
    def batch_size(self) -> int | None:
        """Samples in the micro-batch that was looked at last; None where no tensor tells."""
        return None if math.isnan(self._batch.samples) else round(self._batch.samples)

    @property
    def batch_flops(self) -> float | None:
        """Model FLOPs of the forward and backward of the first batch that was counted; None where none was."""
        training = self.flop_count and self._training_flops(self.flop_count)
        return training.model if training else None

    @property
    def is_warm(self) -> bool:
        """Whether the warm-up is over."""
        return not self._steps_to_skip

    def sample(self) -> float:
        """Say that the modules of the micro-batch that was looked at are timed; its step is left out of the totals.

        Returns:
            Its FLOPs over those of the first batch that was counted; NaN where one is unknown.
        """
        self._left_out_as = self._left_out_as or "sampling"
        first = self.flop_count and self._training_flops(self.flop_count)
        batch = self._batch.flops or self._counted_flops()
        return batch.model / first.model if first else math.nan

    def counter(self, module: nn.Module) -> FlopCounter:
        """What counts the module's forward and backward in a ``with`` block; the step is left out of the totals.

        Raises:
            ValueError: If FLOPs are given, so that there is nothing to count.
        """
        if not isinstance(self._flops, str):
            raise ValueError("FLOPs are given by flops=, so there is nothing to count.")
        self._left_out_as = "counting"
        return FlopCounter(
            module, counter=self._flops, attention=self._attention, tensor_parallel=self._tensor_parallel
        )

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
        part = self._left_out_as or ("warmup" if self._steps_to_skip else "training")
        self._ledger.end_step(self._step, part)
        if self._steps_to_skip:
            self._steps_to_skip -= 1
        self._left_out_as = None

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
        return self._own_part(self._ledger.take_window())

    def run_totals(self, *, wait: bool = True) -> Totals:
        """The totals of the whole run.

        Args:
            wait: Whether to wait for the device to end its last steps.
        """
        return self._own_part(self._ledger.run_totals(wait=wait))

    def summary(self, ranks: Sequence[Totals] = ()) -> Summary:
        """What the run came to.

        Args:
            ranks: The run totals of all devices; without them it is what is known while the run goes on.
        """
        if not ranks or not all(rank.steps for rank in ranks):
            return Summary(
                steps=0,
                flops=self.flop_count,
                conventions=self.conventions if self.flop_count is not None else None,
                peak=self.peak,
                achievable=self.achievable,
                wall_time_sec=self._wall.until_now(),
            )
        run = Window(ranks=tuple(ranks))
        tokens = sum(rank.tokens for rank in ranks)
        return Summary(
            steps=int(ranks[0].steps),
            tokens=None if math.isnan(tokens) else round(tokens),
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
            modules=self._modules(),
        )

    def _modules(self) -> tuple[ModuleFigures, ...] | None:
        times, count = self.module_times, self.flop_count
        if times is None or not times.batches or not times.is_over():
            return None
        training = None if count is None else self._training_flops(count)
        seconds, size = times.seconds()
        is_known = count is not None and training is not None and not math.isnan(size)
        return figures_per_module(
            seconds,
            count.per_module if count is not None and is_known else {},
            flops_factor=size * training.model / count.forward if count is not None and training else math.nan,
            peak_flops_per_sec=None if self.peak is None else self.peak.flops_per_sec * self._tensor_parallel,
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

    def _own_part(self, totals: Totals) -> Totals:
        return replace(totals.shared_by(self._tensor_parallel), **self._device_state())

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
