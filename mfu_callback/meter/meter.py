"""Joins the measurements of one run: tokens, FLOPs, seconds and the peak. Independent of any trainer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import torch

from mfu_callback.meter.batch_flops import BatchFlops
from mfu_callback.meter.batches import Batches, TokensArgument
from mfu_callback.meter.clock import StepClock
from mfu_callback.meter.conventions import Conventions, FlopsArgument
from mfu_callback.meter.device_memory import peak_memory_bytes
from mfu_callback.meter.ledger import Ledger
from mfu_callback.meter.metrics import Window
from mfu_callback.meter.module_times import ModuleTimes
from mfu_callback.meter.per_module import figures_of_run
from mfu_callback.meter.run_peaks import RunPeaks
from mfu_callback.meter.summary import Summary
from mfu_callback.meter.totals import Amounts, Totals
from mfu_callback.peaks import Peak


class MFUMeter:
    """Measures one training run on one device, step by step.

    Call `begin_step`, then `look_at` and `add_forward` for each micro-batch, then `end_step`. Between `look_at` and
    `add_forward`, a micro-batch is counted if `flops.needs_count`. The first steps are warm-up and not in the totals.

    Args:
        clock: Times the steps; the caller enters its phases.
        device: The device whose memory is reported.
        flops: A counter of `FlopCounter`, training FLOPs per token, or a callable from a batch to its training FLOPs.
        backward_factor: FLOPs of the backward pass over those of the forward pass, or "measured".
        attention: The convention for attention, "full" or "causal".
        tokens: Tokens of every batch, a callable from a batch to its tokens, or None to count them.
        peak: The peak for MFU.
        sync: When to wait for the device: one of `mfu_callback.meter.ledger.SYNCS`.
        warmup_steps: Number of steps to leave out at the start.
        tensor_parallel: Number of devices that share the work on each batch; the totals are this device's part.

    Attributes:
        clock: The clock.
        conventions: How FLOPs are counted.
        batches: Tokens, samples and shape of the micro-batch in hand.
        flops: FLOPs of the micro-batch in hand, or whether it must be counted.
        ledger: The seconds of the run.
        peaks: The peaks from the next window on.
        hints: Sentences on settings that would make the run's matmuls faster.
        module_times: Times the modules; None unless asked for.
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
    ) -> None:
        self.clock = clock
        self.conventions = Conventions(
            flops=flops, backward_factor=backward_factor, attention=attention, tensor_parallel=tensor_parallel
        )
        self.batches = Batches(flops, tokens)
        self.flops = BatchFlops(self.conventions, self.batches)
        self.ledger = Ledger(clock, sync=sync)
        self.peaks = RunPeaks.of(peak)
        self.hints: tuple[str, ...] = ()
        self.module_times: ModuleTimes | None = None
        self._device = device
        self._steps_to_skip = warmup_steps
        self._step = Amounts()
        self._is_new_batch = False
        self._left_out_as: str | None = None
        self._wall_time_sec: dict[str, float] | None = None

    def begin_step(self) -> None:
        """Start a step."""
        self._step = Amounts()
        self.ledger.begin_step()

    def look_at(self, batch: Any) -> None:
        """Look at the micro-batch that runs next; no reference to it is kept."""
        self._is_new_batch = True
        self.batches.look_at(batch)

    def add_forward(self) -> None:
        """Add a forward and backward pass of the micro-batch in hand; its tokens count once, even if it runs again."""
        step = self._step
        if self._is_new_batch:
            self._is_new_batch = False
            batch = self.batches.in_hand
            step.tokens += batch.tokens
            step.samples += batch.samples
            step.real_tokens.append(self.batches.real_tokens)
        flops = self.flops.of_batch()
        step.flops += flops.model
        step.recomputed_flops += flops.recomputed

    def leave_out(self, part: str) -> None:
        """Leave the running step out of the totals.

        Args:
            part: The part of the wall time that the step is instead: "counting", which overrides others, or "sampling".
        """
        if self._left_out_as != "counting":
            self._left_out_as = part

    @property
    def is_warm(self) -> bool:
        """Whether the warm-up is over."""
        return not self._steps_to_skip

    def end_step(self) -> None:
        """End the step and add it to the totals, unless it is warm-up or left out."""
        part = self._left_out_as or ("warmup" if self._steps_to_skip else "training")
        self.ledger.end_step(self._step, part)
        if self._steps_to_skip:
            self._steps_to_skip -= 1
        self._left_out_as = None

    def take_window(self) -> Totals:
        """Totals of this device since the last call."""
        return self._own_part(self.ledger.take_window())

    def run_totals(self, *, wait: bool = True) -> Totals:
        """Totals of this device over the whole run.

        Args:
            wait: Whether to wait until the device has finished its last steps.
        """
        totals = self._own_part(self.ledger.run_totals(wait=wait))
        self._wall_time_sec = self.ledger.wall_time_sec()  # what is measured afterwards is not the run's
        return totals

    def with_peaks(self, totals: Totals) -> Totals:
        """Totals of this device, taken earlier, with the peaks as they are now."""
        return replace(totals, **self.peaks.rates())

    def summary(self, ranks: Sequence[Totals] = ()) -> Summary:
        """The figures of the whole run.

        Args:
            ranks: The run totals of all devices; without them, the summary has no step and only what is known by now.
        """
        known: dict[str, Any] = {
            "flops": self.flops.first,
            "conventions": None if self.flops.first is None else str(self.conventions),
            "peak": self.peaks.peak,
            "achievable": self.peaks.achievable,
            "hints": self.hints,
            "wall_time_sec": self._wall_time_sec or self.ledger.wall_time_sec(),
        }
        if not ranks or not all(rank.steps for rank in ranks):
            return Summary(steps=0, **known)
        peak, devices = self.peaks.peak, self.conventions.tensor_parallel
        modules = figures_of_run(
            self.module_times,
            self.flops.first,
            self.flops.of_first,
            None if peak is None else peak.flops_per_sec * devices,
        )
        window = Window(ranks=tuple(ranks))
        known["fastest"] = self.peaks.fastest_beyond(window.peak_flops_per_sec)
        return Summary.of(window, step_time_sec=median(self.ledger.step_times), modules=modules, **known)

    def _own_part(self, totals: Totals) -> Totals:
        """This device's part of shared totals, with its memory and its peaks, which are at least what it reached."""
        own = totals.shared_by(self.conventions.tensor_parallel)
        self.peaks = self.peaks.reached(own.forward_backward_flops_per_sec)
        return replace(own, peak_memory_bytes=peak_memory_bytes(self._device), **self.peaks.rates())
