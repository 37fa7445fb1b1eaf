"""Joins the measurements of one run: tokens, FLOPs, seconds and the peak. Independent of any trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import torch

from mfu_callback.meter.arguments import Arguments
from mfu_callback.meter.batch_flops import BatchFlops
from mfu_callback.meter.batches import Batches, TokensArgument
from mfu_callback.meter.circumstances import Circumstances
from mfu_callback.meter.clock import StepClock
from mfu_callback.meter.conventions import Conventions, FlopsArgument
from mfu_callback.meter.device_watch import DeviceWatch
from mfu_callback.meter.devices import device_figures, pace_setter_of
from mfu_callback.meter.done import NOTHING, Done
from mfu_callback.meter.ledger import Ledger
from mfu_callback.meter.metrics import Window
from mfu_callback.meter.module_times import ModuleTimes
from mfu_callback.meter.per_module import figures_of_run
from mfu_callback.meter.run_operators import RunOperators
from mfu_callback.meter.run_peaks import RunPeaks
from mfu_callback.meter.summary import Summary
from mfu_callback.meter.totals import Totals
from mfu_callback.meter.waits import Together
from mfu_callback.meter.work import Work
from mfu_callback.peaks import Hint, Peak
from mfu_callback.peaks.peak import dtype_name


class RunMeter:
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
        forward_only: Whether steps are batches that are evaluated, without a backward pass.

    Attributes:
        clock: The clock.
        conventions: How FLOPs are counted.
        batches: Tokens, samples and shape of the micro-batch in hand.
        flops: FLOPs of the micro-batch in hand, or whether it must be counted.
        ledger: The seconds of the run.
        peaks: The peaks from the next window on.
        hints: Settings that would make the run's matmuls faster.
        circumstances: Settings of the run; None until they are known.
        module_times: Times the modules; None unless asked for.
        operators: Profiles the operators; None unless asked for.
        carried: What the job had done before this run, on all devices: up to the checkpoint that it resumes.
        device_watch: Reads the device's memory, power and clocks; to be restarted where training starts.
        add_forward: Adds a forward and backward pass of the micro-batch in hand; its tokens count once, even if it runs
            again.
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
        sync: str = "events",
        warmup_steps: int = 3,
        forward_only: bool = False,
    ) -> None:
        self.clock = clock
        self.conventions = Conventions(
            flops=flops, backward_factor=backward_factor, attention=attention, forward_only=forward_only
        )
        self._work = Work(lambda batch: self.flops.of_pass(batch))  # share_batches replaces the FLOPs
        self.batches = Batches(self.conventions.given_flops, tokens, self._work.note)
        self.flops = BatchFlops(self.conventions, self.batches)
        self.device_watch = DeviceWatch(device)
        self.ledger = Ledger(
            *(clock, self._work),
            sync=sync,
            warmup_steps=warmup_steps,
            on_warm=lambda: self.device_watch.restart(),
        )
        self.peaks = RunPeaks.of(peak)
        self.hints: tuple[Hint, ...] = ()
        self.circumstances: Circumstances | None = None
        self.module_times: ModuleTimes | None = None
        self.operators: RunOperators | None = None
        self.carried = NOTHING
        self.add_forward = self._adding_forward()
        self._together: Together | None = None
        self._wall_time_sec: dict[str, float] | None = None

    @classmethod
    def of(
        cls, arguments: Arguments, clock: StepClock, device: torch.device, *, forward_only: bool = False
    ) -> RunMeter:
        """The meter that the arguments of `MFUCallback` ask for; its peak is still to be found.

        Args:
            arguments: The arguments.
            clock: As above.
            device: As above.
            forward_only: As above.
        """
        return cls(
            clock=clock,
            device=device,
            flops=arguments.flops,
            backward_factor=arguments.backward_factor,
            attention=arguments.attention,
            tokens=arguments.tokens,
            sync=arguments.sync,
            warmup_steps=arguments.warmup_steps,
            forward_only=forward_only,
        )

    def share_batches(self, ranks: int, *, tensor_parallel: int = 1) -> None:
        """Say, before the first step, that several ranks are handed the same batch and work on it together.

        All totals are then this rank's part: its share of the tokens and samples, and the FLOPs that it computes.

        Args:
            ranks: Number of ranks that are handed the same batch.
            tensor_parallel: Number of those whose work each of them counts, because operators see whole tensors.
        """
        self.conventions = replace(self.conventions, ranks_per_batch=ranks, tensor_parallel=tensor_parallel)
        self.flops = BatchFlops(self.conventions, self.batches)

    def _adding_forward(self) -> Callable[[], None]:
        note, batches = self._work.note, self.batches
        return lambda: note(batches.in_hand)

    @property
    def has_work(self) -> bool:
        """Whether the running step has a forward and backward pass so far."""
        return self._work.is_noted

    def begin_step(self) -> None:
        """Start a step."""
        self.ledger.begin_step()

    def look_at(self, batch: Any) -> None:
        """Look at the micro-batch that runs next; no reference to it is kept."""
        self.batches.look_at(batch)

    def leave_out(self, part: str) -> None:
        """Leave the running step out of the totals.

        Args:
            part: The part of the wall time that it is instead: "counting", which overrides others, "sampling", "rest".
        """
        self.ledger.leave_out(part)

    @property
    def is_warm(self) -> bool:
        """Whether the warm-up is over."""
        return self.ledger.is_warm

    def end_step(self) -> None:
        """End the step and add it to the totals, unless it is warm-up or left out."""
        self.ledger.end_step()

    def take_window(self) -> Totals:
        """Totals of this device since the last call."""
        return self._own_part(self.ledger.take_window(), self.device_watch.take_window())

    def take_last_window(self) -> Totals:
        """Totals of this device since the last call, where no step follows for now; waits for the device."""
        return self._own_part(self.ledger.take_last_window(), self.device_watch.take_window())

    def run_totals(self, *, wait: bool = True) -> Totals:
        """Totals of this device over the whole run.

        Args:
            wait: Whether to wait until the device has finished its last steps.
        """
        booked = self.ledger.run_totals(wait=wait).with_flops_times(self.flops.correction)
        totals = self._own_part(booked, self.device_watch.take_run())
        self._wall_time_sec = self.ledger.wall_time_sec()  # what is measured afterwards is not the run's
        return totals

    def done_so_far(self) -> Done:
        """This device's part of all that was trained on since the run began; never waits."""
        conventions = self.conventions
        done = self.ledger.done_so_far()
        return done.shared_by(conventions.ranks_per_batch, flops_by=conventions.ranks_per_flops)

    def wall_time_sec(self) -> dict[str, float]:
        """Wall time of the run in seconds by part, up to now or to its end."""
        return self._wall_time_sec or self.ledger.wall_time_sec()

    def with_peaks(self, totals: Totals) -> Totals:
        """Totals of this device, taken earlier, with the peaks as they are now."""
        rates: dict[str, Any] = self.peaks.rates(totals.flops, totals.flops_of_dtypes)
        return replace(totals, **rates)

    def window_of(self, ranks: Sequence[Totals]) -> Window:
        """The figures of all devices over a window; what it tells about late devices is kept for the summary.

        Args:
            ranks: The totals of each device, from `take_window`.
        """
        window = Window(ranks=tuple(ranks), carried=self.carried)
        if len(ranks) > 1:
            self._together = window.together if self._together is None else self._together + window.together
        return window

    def shares_of_dtypes(self) -> dict[str, dict[str, Any]]:
        """By dtype: its share of the first batch's model FLOPs, its peak in FLOP/s, and the source of that.

        Empty if there is one dtype. The source is None where a dtype has no peak of its own, and counts as most FLOPs.
        """
        first, peak, others = self.flops.of_first, self.peaks.peak, self.peaks.of_dtypes
        if first is None or peak is None or not self.peaks.of_dtypes:
            return {}
        own = {dtype_name(peak.dtype): peak} | {dtype: of_dtype for dtype, (of_dtype, _) in others.items()}
        return {
            dtype: {
                "share": flops / first.model,
                "flops_per_sec": own.get(dtype, peak).flops_per_sec,
                "source": own[dtype].source if dtype in own else None,
            }
            for dtype, flops in first.of_dtypes.items()
        }

    def summary(self, ranks: Sequence[Totals] = (), hosts: Sequence[str] = ()) -> Summary:
        """The figures of the whole run.

        Args:
            ranks: The run totals of all devices; without them, the summary has no step and only what is known by now.
            hosts: The name of each device's machine; empty if unknown.
        """
        known: dict[str, Any] = {
            "flops": self.flops.first,
            "conventions": None if self.flops.first is None else str(self.conventions),
            "peak": self.peaks.peak,
            "achievable": self.peaks.achievable,
            "dtypes": self.shares_of_dtypes() or None,
            "hints": tuple(hint.text for hint in self.hints),
            "hint_times": tuple(hint.times for hint in self.hints),
            "circumstances": self.circumstances,
            "flops_error": None if self.flops.error is None else min(self.flops.error, 1.0),
            "steps_by_part": dict(self.ledger.steps_by_part),
            "wall_time_sec": self.wall_time_sec(),
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
        window = Window(ranks=tuple(ranks), before=self._together)
        known["devices"] = device_figures(ranks, hosts)
        known |= self.device_watch.figures(window)
        known["pace"] = pace_setter_of(known["devices"], window.pace_setter, window.together)
        known["fastest"] = self.peaks.fastest_beyond(window.peak_flops_per_sec)
        if self.operators is not None:
            known["operators"] = self.operators.figures()
            known["kernels"] = window.waterfall and self.operators.kernels(window.waterfall["kernels"])
        return Summary.of(window, step_time_sec=median(self.ledger.step_times), modules=modules, **known)

    def _own_part(self, totals: Totals, device: dict[str, Any]) -> Totals:
        """This device's part of shared totals, with its state and its peaks, which are at least what it reached."""
        conventions = self.conventions
        totals = replace(totals, done=self.ledger.done)
        own = totals.shared_by(conventions.ranks_per_batch, flops_by=conventions.ranks_per_flops)
        self.peaks = self.peaks.reached(own.forward_backward_flops_per_sec, own.flops, own.flops_of_dtypes)
        return self.with_peaks(replace(own, **device))
