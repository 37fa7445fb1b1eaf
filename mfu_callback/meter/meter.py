"""One run's measurements, joined: tokens, FLOPs, seconds and the peak. Knows no trainer."""

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

    A step is begun, given its micro-batches, and ended; the first ones are warm-up and leave no trace in the totals.
    A micro-batch is looked at first, counted if its FLOPs are not known yet (`flops`), and added once it runs.

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

    Attributes:
        clock: As given.
        conventions: How FLOPs are counted.
        batches: Holds the micro-batch in hand.
        flops: Knows its FLOPs, or takes its count.
        ledger: Books the seconds.
        peaks: What the run is measured against, from the next window on.
        module_times: What times the modules, where that is asked for.
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
        self.module_times: ModuleTimes | None = None
        self._device = device
        self._steps_to_skip = warmup_steps
        self._step = Amounts()
        self._is_new_batch = False
        self._left_out_as: str | None = None

    def begin_step(self) -> None:
        """Start a step."""
        self._step = Amounts()
        self.ledger.begin_step()

    def look_at(self, batch: Any) -> None:
        """Take the micro-batch that is next; it is not kept."""
        self._is_new_batch = True
        self.batches.look_at(batch)

    def add_forward(self) -> None:
        """Add a forward and backward of the micro-batch in hand; its tokens once, however often it runs."""
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
            part: What it is instead, of the wall time: "counting", which goes before any other, or "sampling".
        """
        if self._left_out_as != "counting":
            self._left_out_as = part

    @property
    def is_warm(self) -> bool:
        """Whether the warm-up is over."""
        return not self._steps_to_skip

    def end_step(self) -> None:
        """End the step: it joins the totals, unless it is warm-up or was left out."""
        part = self._left_out_as or ("warmup" if self._steps_to_skip else "training")
        self.ledger.end_step(self._step, part)
        if self._steps_to_skip:
            self._steps_to_skip -= 1
        self._left_out_as = None

    def take_window(self) -> Totals:
        """The totals since the last call."""
        return self._own_part(self.ledger.take_window())

    def run_totals(self, *, wait: bool = True) -> Totals:
        """The totals of the whole run.

        Args:
            wait: Whether to wait for the device to end its last steps.
        """
        return self._own_part(self.ledger.run_totals(wait=wait))

    def summary(self, ranks: Sequence[Totals] = ()) -> Summary:
        """The figures of the whole run.

        Args:
            ranks: The run totals of all devices; without them it is what is known while the run goes on.
        """
        known: dict[str, Any] = {
            "flops": self.flops.first,
            "conventions": None if self.flops.first is None else str(self.conventions),
            "peak": self.peaks.peak,
            "achievable": self.peaks.achievable,
            "wall_time_sec": self.ledger.wall_time_sec(),
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
        step_time_sec = median(self.ledger.step_times)
        return Summary.of(Window(ranks=tuple(ranks)), step_time_sec=step_time_sec, modules=modules, **known)

    def _own_part(self, totals: Totals) -> Totals:
        """This device's part of the work, with the state that it is in."""
        own = totals.shared_by(self.conventions.tensor_parallel)
        return replace(own, peak_memory_bytes=peak_memory_bytes(self._device), **self.peaks.rates())
