"""One measured training run, whatever loop drives it: its parts, joined, and what all ranks know of it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from mfu_callback.meter.arguments import Arguments
from mfu_callback.meter.circumstances import Circumstances
from mfu_callback.meter.clock import Phase, StepClock, Timer
from mfu_callback.meter.collectives import CollectiveWaits
from mfu_callback.meter.counting import Counting
from mfu_callback.meter.exchange import Exchange
from mfu_callback.meter.job import Job, Progress
from mfu_callback.meter.messages import Messages
from mfu_callback.meter.meter import RunMeter
from mfu_callback.meter.metrics import Window, logged_values
from mfu_callback.meter.peak_of_run import PeakOfRun
from mfu_callback.meter.ranks import Ranks, exchanged, hosts_of
from mfu_callback.meter.summary import Summary
from mfu_callback.meter.totals import Totals
from mfu_callback.peaks import DtypeRate


class Measurement:
    """Measures one training run of a model, for the adapter of a loop that tells when things begin and end.

    It is created where the run begins, so that its whole wall time is known, and measures from `start` on. Then
    `begin_step`, `meter.look_at` for each micro-batch, which runs inside ``counting.batch()`` if `counting.is_due`, and
    `end_step`. Nothing is put on the model outside of these.

    Args:
        module: The model.
        device: The device that it trains on.
        timer: Stamps the phases.
        arguments: The arguments of `MFUCallback`.
        ranks: The processes of the run.
        messages: Says what was found.
        loop: The kind of the loop: a key of `mfu_callback.meter.loop_settings.LOOP_SETTINGS`.

    Attributes:
        arguments: As given.
        clock: The clock; the adapter enters its phases.
        meter: Joins what is measured.
        peak: The peak of the run.
        counting: Counts the batches.
        progress: What the job has done, of which the run is a part.
        waits: Times the waiting for other processes; None for a single one.
        is_measuring: Whether it was started and not yet summed up.
    """

    def __init__(
        self,
        module: nn.Module,
        device: torch.device,
        timer: Timer,
        arguments: Arguments,
        ranks: Ranks,
        messages: Messages,
        *,
        loop: str = "trainer",
    ) -> None:
        self.arguments = arguments
        self.is_measuring = False
        self.clock = StepClock(timer)
        self.meter = RunMeter.of(arguments, self.clock, device)
        self.peak = PeakOfRun(self.meter, arguments.peak, device, messages, loop=loop)
        self.counting = Counting(self.meter, module, messages, self._warn_of_count, self.peak.take_count)
        self.progress = Progress(ranks.size)
        self.waits: CollectiveWaits | None = None
        self._job: Job | None = None
        self._device = device
        self._ranks = ranks
        self._exchange: Exchange[Any] = Exchange(ranks, device)
        self._messages = messages
        self._is_in_first_replica: Callable[[], bool] = lambda: True

    def start(
        self,
        dtype: torch.dtype,
        wrapped: nn.Module | None,
        *,
        ranks_per_batch: int = 1,
        tensor_parallel: int = 1,
        is_in_first_replica: Callable[[], bool] = lambda: True,
    ) -> None:
        """Find the peak, and begin.

        Args:
            dtype: The dtype of the matmuls' inputs, as far as it is known.
            wrapped: The model as it is called, with DDP around it.
            ranks_per_batch: Number of ranks that are handed the same batch.
            tensor_parallel: Number of those whose work each of them counts.
            is_in_first_replica: Whether this rank works on the batches that rank zero works on.
        """
        self.is_measuring = True
        self._is_in_first_replica = is_in_first_replica
        self.meter.share_batches(ranks_per_batch, tensor_parallel=tensor_parallel)
        self.peak.find(dtype)
        if self._ranks.size > 1:
            self.waits = CollectiveWaits(self.clock, wrapped)

    def end_step(self) -> None:
        """End an optimizer step, which the meter has begun."""
        waits = self.waits
        if waits is None:
            self.meter.end_step()
            return
        if waits.is_on:
            self.meter.ledger.note_waits()
        self.meter.end_step()
        waits.next_step()

    def take_values(self) -> dict[str, float]:
        """The values by tag of all ranks since the last call; empty if one has measured no step. All ranks call it."""
        return self._values_of(self._all_ranks(self.meter.take_window()))

    def begin_values(self, place: Any) -> None:
        """Send the totals since the last call to all ranks, which all call it; `end_values` is called before the next.

        Args:
            place: Where the values belong to.
        """
        with self._unwatched():
            self._exchange.begin(self.meter.take_window(), place)

    def end_values(self) -> tuple[Any, dict[str, float]] | None:
        """The place and the values by tag of all ranks that were begun last; None if none were. All ranks call it.

        The later it is called, the less it waits: not at all where the ranks have met in a collective meanwhile.
        """
        with self._unwatched():
            begun = self._exchange.take()
        return None if begun is None else (begun[0], self._values_of(begun[1]))

    @contextmanager
    def _unwatched(self) -> Iterator[None]:
        """A context for collectives of our own, whose waiting is not the model's."""
        if self.waits is None:
            yield
            return
        self.waits.suspend()
        try:
            yield
        finally:
            self.waits.resume()

    def _values_of(self, ranks: list[Totals]) -> dict[str, float]:
        self._take_progress(ranks)
        if not all(rank.steps for rank in ranks):
            return {}
        window = self.meter.window_of(ranks)
        self._look_at(window)
        return logged_values(window)

    def _look_at(self, window: Window) -> None:
        self.peak.warn_if_above_one(window)
        self.counting.note_on_backward(window)

    def go_on_from(self, job: Job, last_seen: float) -> None:
        """Go on with the job of a checkpoint, before the first step.

        Args:
            job: What the checkpoint says of it.
            last_seen: When the fit that wrote the checkpoint last trained, in seconds since 1970.
        """
        self.progress.go_on_from(job, last_seen)
        self.meter.carried = self.progress.carried

    def job(self) -> Job:
        """What the job has done up to now, or to the end of the run; waits for no device and no other rank.

        What the other ranks have done since they last told is taken to be what this one has done.
        """
        if self._job is not None:
            return self._job
        return self.progress.job(self.meter.done_so_far(), self.meter.wall_time_sec())

    def _take_progress(self, ranks: list[Totals]) -> None:
        self.progress.take([rank.done for rank in ranks], self._ranks.index)

    def finish(self, circumstances: Callable[[], Circumstances], *, measure_rates: bool = True) -> Summary:
        """Sum up the run over all ranks, which all call it.

        Args:
            circumstances: Returns the settings of the run.
            measure_rates: Whether to measure how fast the dtypes are, if it is not known.
        """
        self.progress.end()
        totals = self.meter.run_totals()
        if totals.steps and not math.isnan(totals.flops):
            self.peak.settle()
        ranks = self._all_ranks(self.meter.with_peaks(totals))
        rates = self._rates_of_dtypes(measure=measure_rates)
        self.peak.compare(rates, processes=self._ranks.on_this_machine)
        self._measure_operators()
        return self._sum_up(ranks, circumstances)

    def break_off(self, circumstances: Callable[[], Circumstances]) -> Summary | None:
        """Sum up after an exception, without waiting; None if other ranks are needed.

        Args:
            circumstances: Returns the settings of the run.
        """
        if not self.is_measuring or self._ranks.size > 1:
            return None
        self.progress.end()
        with suppress(RuntimeError):  # from a device that no longer answers
            totals = self.meter.run_totals(wait=False)
            self.peak.compare(self.peak.rates(measure=False), processes=self._ranks.on_this_machine)
            return self._sum_up([totals], circumstances)
        return None

    def _sum_up(self, ranks: list[Totals], circumstances: Callable[[], Circumstances]) -> Summary:
        self.meter.circumstances = circumstances()
        job = self._end_job(ranks)
        summary = replace(self.meter.summary(ranks, hosts_of(len(ranks))), job=job, wall_time_sec=job.wall_time_sec)
        if summary.steps:
            self._look_at(Window(ranks=tuple(ranks)))
        self.is_measuring = False
        return summary

    def _end_job(self, ranks: list[Totals]) -> Job:
        """The job at the end of the run, that of rank zero on all ranks, whose clocks may differ."""
        self._take_progress(ranks)
        own = self.progress.job(ranks[self._ranks.index].done, self.meter.wall_time_sec())
        self._job = job = own if self._ranks.size == 1 else self._ranks.broadcast(own)
        return job

    def _measure_operators(self) -> None:
        """Measure what the operators are compared with, on the first rank alone, which reports them."""
        operators = self.meter.operators
        if operators is None or self._ranks.index != 0:
            return
        if not operators.times.steps:
            self._messages.inform("no batch was profiled; the fourth after the warm-up is the first that is.")
            return
        self._messages.inform("the roofs of this device's operators are measured, which takes about 2 s.")
        try:
            operators.measure(self.meter.peaks)
        except Exception as error:  # a device without memory for it, a profile that cannot be read
            self._messages.warn_once("roofs", f"The table of operators is left out ({type(error).__name__}: {error}).")

    def _rates_of_dtypes(self, *, measure: bool) -> dict[torch.dtype, DtypeRate]:
        """Those of rank zero, which alone measures them: processes that measured at once would slow each other."""
        count = self.meter.flops.first
        has_matmuls = count is not None and count.forward > 0
        rates = self.peak.rates(measure=has_matmuls and measure) if self._ranks.index == 0 else {}
        shared: dict[torch.dtype, DtypeRate] = rates if self._ranks.size == 1 else self._ranks.broadcast(rates)
        return shared

    def _all_ranks(self, totals: Totals) -> list[Totals]:
        if self._ranks.size == 1:
            return [totals]
        with self.clock.during(Phase.EXCHANGE):
            return exchanged(totals, self._ranks, self._device)

    def _warn_of_count(self, subject: str, message: str) -> None:
        """Warn once; where each rank counts its own part of a batch, also on the other ranks that have one."""
        own_part = self.meter.conventions.counts_own_part
        if self._ranks.index == 0 or not own_part or not self._is_in_first_replica():
            self._messages.warn_once(subject, message)
        elif self._messages.is_new(subject):
            warnings.warn(f"On rank {self._ranks.index}: {message}", stacklevel=2)
