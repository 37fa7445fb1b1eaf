"""One measured fit of a Trainer: all state that exists only while it runs."""

from __future__ import annotations

import math
import platform
import warnings
from contextlib import suppress
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from mfu_callback.lightning import private_names
from mfu_callback.lightning.arguments import Arguments
from mfu_callback.lightning.circumstances import circumstances_of
from mfu_callback.lightning.counting import Counting
from mfu_callback.lightning.metric_log import MetricLog
from mfu_callback.lightning.optimizer_steps import OptimizerSteps
from mfu_callback.lightning.peak_of_run import PeakOfRun
from mfu_callback.lightning.phases import bracket_phases
from mfu_callback.lightning.profiling import Profiling
from mfu_callback.lightning.run_board import Board
from mfu_callback.lightning.sampling import Sampling
from mfu_callback.lightning.sharing import devices_counted_together, is_in_first_replica, ranks_per_batch
from mfu_callback.meter.clock import Phase, StepClock, timer_for
from mfu_callback.meter.collectives import CollectiveWaits
from mfu_callback.meter.meter import MFUMeter
from mfu_callback.meter.metrics import Window, logged_values
from mfu_callback.meter.run_operators import RunOperators
from mfu_callback.meter.run_peaks import RunPeaks
from mfu_callback.meter.summary import Summary
from mfu_callback.meter.tags import IN_PROGRESS_BAR
from mfu_callback.meter.totals import Totals
from mfu_callback.peaks import DtypeRate
from mfu_callback.report.end_of_fit import line_of, print_summary
from mfu_callback.tools.brackets import Brackets


class MeasuredRun:
    """Measures one fit, logs its values and sums it up.

    It is created when fit begins, so that the wall time of the whole fit is known. It measures steps from the start of
    training on.

    Args:
        trainer: A Trainer that is about to fit.
        pl_module: The model.
        arguments: The arguments of `MFUCallback`.

    Attributes:
        is_over: Whether it was summed up; a run is not started twice.
    """

    def __init__(self, trainer: Trainer, pl_module: LightningModule, arguments: Arguments) -> None:
        self._trainer = trainer
        self._pl_module = pl_module
        self._arguments = arguments
        self._warned: set[str] = set()
        self._is_measuring = False
        self._in_step = False
        self.is_over = False
        device = self._device = trainer.strategy.root_device
        self._timer = timer_for(device)
        self._clock = StepClock(self._timer)
        self._meter = MFUMeter(
            clock=self._clock,
            device=device,
            flops=arguments.flops,
            backward_factor=arguments.backward_factor,
            attention=arguments.attention,
            tokens=arguments.tokens,
            sync=arguments.sync,
            warmup_steps=arguments.warmup_steps,
        )
        self._peak = PeakOfRun(self._meter, arguments.peak, device, self._warn_once)
        self._counting = Counting(self._meter, pl_module, self._warn_of_count, self._peak.take_count)
        self._steps = OptimizerSteps()
        self._waits: CollectiveWaits | None = None
        self._metric_log = MetricLog(trainer)
        self._board = Board(trainer, pl_module, self._warn_once, in_tensorboard=arguments.board)
        self._brackets = Brackets()

    @property
    def peaks(self) -> RunPeaks:
        """The peaks that it is measured against, as they are now."""
        return self._meter.peaks

    def assign_rest(self, part: str) -> None:
        """Assign all unassigned wall time so far to a part: "setup" or "sanity"."""
        self._meter.ledger.assign_rest(part)

    def start(self) -> None:
        """Find the peak and put the brackets on, at the start of training."""
        self._is_measuring = True
        self._meter.share_batches(
            ranks_per_batch(self._trainer, self._arguments.ranks_per_batch, self._warn_once),
            tensor_parallel=devices_counted_together(self._trainer, self._pl_module),
        )
        self._peak.find(private_names.matmul_dtype(self._trainer))
        self._steps.start(self._trainer)
        self._brackets.put(self._trainer.strategy, "training_step", self._counting.around_training_step)
        self._brackets.put(private_names.optimization_loop(self._trainer), "run", self._counting.around_step)
        bracket_phases(self._brackets, self._trainer, self._clock, self._steps.notify)
        self._metric_log.put(self._brackets)
        if self._trainer.world_size > 1:
            self._waits = CollectiveWaits(self._clock, self._trainer.strategy.model)
            self._brackets.call_at_removal(self._waits.remove)
        if self._arguments.modules:
            Sampling(self._meter, self._trainer, self._pl_module, self._timer, self._brackets)
        if self._arguments.operators:
            Profiling(self._meter, self._trainer, RunOperators(self._device), self._warn_once, self._brackets)
        self._meter.device_watch.restart()
        self.assign_rest("setup")
        self._clock.start()

    def forget_frozen(self) -> None:
        """Check again at the next batch which parameters are frozen."""
        self._counting.forget_state()

    def begin_batch(self, batch: Any) -> None:
        """Begin a batch, and a step if this is its first micro-batch."""
        if not self._in_step:
            self._meter.begin_step()
            self._in_step = True
        self._clock.enter(Phase.OTHER)
        self._meter.look_at(batch)

    def begin_backward(self, loss: torch.Tensor) -> None:
        """Begin the backward pass."""
        self._clock.enter(Phase.BACKWARD)
        if self._waits is not None:
            self._waits.begin_backward(loss)

    def end_backward(self) -> None:
        """End the backward pass. With manual optimization the training step goes on."""
        self._clock.enter(Phase.OTHER if self._pl_module.automatic_optimization else Phase.FORWARD)

    def begin_optimizer(self) -> None:
        """Begin gradient clipping and the optimizer step."""
        self._clock.enter(Phase.OPTIMIZER)

    def end_batch(self) -> None:
        """End a batch, and the step if an optimizer stepped; log if the Trainer logs now."""
        if not self._steps.any_since_last_asked():
            return
        self._end_step()
        if not self._board.is_shown:
            with self._clock.during(Phase.REPORT):
                self._board.show(self._meter)
        if private_names.is_logging_step(self._trainer):
            self._log()

    def _end_step(self) -> None:
        waits = self._waits
        self._meter.end_step(sees_waits=waits is not None and waits.is_on)
        self._in_step = False
        if waits is not None:
            waits.next_step()

    def finish(self) -> Summary | None:
        """Take the brackets off and sum up the run over all ranks; None if training never started."""
        self._brackets.remove()
        if not self._is_measuring:
            return None
        totals = self._meter.run_totals()
        if totals.steps and not math.isnan(totals.flops):
            self._peak.settle()
        ranks = self._all_ranks(self._meter.with_peaks(totals))
        self._peak.compare(self._rates_of_dtypes(), processes=self._trainer.num_devices)
        self._measure_operators()
        return self._sum_up(ranks)

    def _measure_operators(self) -> None:
        """Measure what the operators are compared with, on the first rank alone, which reports them."""
        operators = self._meter.operators
        if operators is None or not self._trainer.is_global_zero:
            return
        if not operators.times.steps:
            rank_zero_info("MFUCallback: no batch was profiled; the fourth after the warm-up is the first that is.")
            return
        rank_zero_info("MFUCallback: the roofs of this device's operators are measured, which takes about 2 s.")
        try:
            operators.measure(self._meter.peaks)
        except Exception as error:  # a device without memory for it, a profile that cannot be read
            self._warn_once("roofs", f"The table of operators is left out ({type(error).__name__}: {error}).")

    def break_off(self) -> Summary | None:
        """Take the brackets off and sum up after an exception, without waiting; None if other ranks are needed."""
        self._brackets.remove()
        if not self._is_measuring or self._trainer.world_size > 1:
            return None
        with suppress(RuntimeError):  # from a device that no longer answers
            totals = self._meter.run_totals(wait=False)
            self._peak.compare(self._peak.rates(measure=False), processes=self._trainer.num_devices)
            return self._sum_up([totals])
        return None

    def show(self, summary: Summary) -> None:
        """Print the summary and write it to the loggers and the log directory."""
        if self._trainer.is_global_zero:
            with suppress(OSError, ValueError):  # a closed pipe or stream, a console of another encoding, a full disk
                self._print(summary)
            self._board.end(summary)

    def close(self) -> None:
        """Take the brackets off and release the loggers."""
        self._brackets.remove()
        self._board.close()

    def _print(self, summary: Summary) -> None:
        style, warmup_steps = self._arguments.summary, self._arguments.warmup_steps
        is_quiet = self._trainer.progress_bar_callback is None and bool(self._trainer.loggers)
        if style == "auto" and is_quiet:
            rank_zero_info(f"MFUCallback: {line_of(summary, warmup_steps=warmup_steps)}")
        elif style is not None:
            print_summary(summary, warmup_steps=warmup_steps, style=style)

    def _sum_up(self, ranks: list[Totals]) -> Summary:
        batch_size = self._meter.batches.size
        self._meter.circumstances = circumstances_of(self._trainer, self._pl_module, batch_size=batch_size)
        summary = self._meter.summary(ranks, self._hosts(len(ranks)))
        if summary.steps:
            self._peak.warn_if_above_one(Window(ranks=tuple(ranks)))
        self._is_measuring, self.is_over = False, True
        return summary

    def _hosts(self, ranks: int) -> list[str]:
        """The name of each rank's machine; empty for a single rank."""
        if ranks == 1 or not (dist.is_available() and dist.is_initialized()):
            return []
        hosts = [""] * ranks
        dist.all_gather_object(hosts, platform.node())
        return hosts

    def _rates_of_dtypes(self) -> dict[torch.dtype, DtypeRate]:
        """Those of rank zero, which alone measures them: processes that measured at once would slow each other."""
        trainer, count = self._trainer, self._meter.flops.first
        has_matmuls = count is not None and count.forward > 0
        measure = has_matmuls and not trainer.fast_dev_run  # type: ignore[attr-defined]
        rates = self._peak.rates(measure=measure) if trainer.is_global_zero else {}
        return rates if trainer.world_size == 1 else trainer.strategy.broadcast(rates)

    def _log(self) -> None:
        ranks = self._all_ranks(self._meter.take_window())
        if not all(rank.steps for rank in ranks):
            return
        window = self._meter.window_of(ranks)
        self._peak.warn_if_above_one(window)
        if self._trainer.barebones:
            return
        values = logged_values(window)
        self._metric_log.log(values, in_progress_bar=IN_PROGRESS_BAR)
        if not self._board.has_dashboard:
            with self._clock.during(Phase.REPORT):
                self._board.show_dashboard(values)

    def _all_ranks(self, totals: Totals) -> list[Totals]:
        if self._trainer.world_size == 1:
            return [totals]
        # MPS has no float64; everywhere else the counts of long runs need it.
        device = self._trainer.strategy.root_device
        dtype = torch.float32 if device.type == "mps" else torch.float64
        row = torch.tensor(totals.as_row(), dtype=dtype, device=device)
        with self._clock.during(Phase.EXCHANGE):
            rows = self._trainer.strategy.all_gather(row)
        return [Totals.from_row(row) for row in rows.tolist()]

    def _warn_of_count(self, subject: str, message: str) -> None:
        """Warn once; where each rank counts its own part of a batch, also on the other ranks that have one."""
        trainer = self._trainer
        if trainer.is_global_zero or not self._meter.conventions.counts_own_part or not is_in_first_replica(trainer):
            self._warn_once(subject, message)
        elif subject not in self._warned:
            self._warned.add(subject)
            warnings.warn(f"On rank {trainer.global_rank}: {message}", stacklevel=2)

    def _warn_once(self, subject: str, message: str) -> None:
        if subject not in self._warned:
            self._warned.add(subject)
            rank_zero_warn(message)
