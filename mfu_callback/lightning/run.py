"""One measured fit of a Trainer: all state that exists only while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mfu_callback.board.serving import prometheus_of
from mfu_callback.flops.rules.shards import group_size
from mfu_callback.lightning import private_names
from mfu_callback.lightning.circumstances import circumstances_of
from mfu_callback.lightning.counted import CountedBatches
from mfu_callback.lightning.loaders import batches_in
from mfu_callback.lightning.metric_log import MetricLog
from mfu_callback.lightning.namespaces import rank_zero_info, rank_zero_warn
from mfu_callback.lightning.optimizer_steps import OptimizerSteps
from mfu_callback.lightning.phases import bracket_phases
from mfu_callback.lightning.profiling import Profiling
from mfu_callback.lightning.restart import checkpoint_state, last_seen
from mfu_callback.lightning.sampling import Sampling
from mfu_callback.lightning.sharing import is_in_first_replica, ranks_per_batch
from mfu_callback.lightning.trainer_board import board_of, run_directory
from mfu_callback.lightning.trainer_ranks import TrainerRanks
from mfu_callback.meter.arguments import Arguments
from mfu_callback.meter.circumstances import Circumstances
from mfu_callback.meter.clock import Phase, timer_for
from mfu_callback.meter.collectives import CollectiveWaits
from mfu_callback.meter.job import job_of
from mfu_callback.meter.measurement import Measurement
from mfu_callback.meter.messages import Messages
from mfu_callback.meter.precision import matmul_dtype_of
from mfu_callback.meter.run_operators import RunOperators
from mfu_callback.meter.run_peaks import RunPeaks
from mfu_callback.meter.summary import Summary
from mfu_callback.meter.tags import IN_PROGRESS_BAR
from mfu_callback.report.end_of_fit import line_of, print_summary
from mfu_callback.tools.brackets import Brackets

if TYPE_CHECKING:
    import torch
    from lightning.pytorch import LightningModule, Trainer


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
        begin_backward: Begins the backward pass.
        end_backward: Ends it.
        begin_optimizer: Begins gradient clipping and the optimizer step.
        waits: Times the waiting for other processes; None for a single one.
    """

    def __init__(self, trainer: Trainer, pl_module: LightningModule, arguments: Arguments) -> None:
        self._trainer = trainer
        self._pl_module = pl_module
        self._arguments = arguments
        self._in_step = False
        self._also_at_end: Callable[[], None] | None = self._end_first_step
        self.is_over = False
        device = self._device = trainer.strategy.root_device
        self._timer = timer_for(device)
        self._messages = Messages(lambda line: rank_zero_info(line), lambda message: rank_zero_warn(message))
        self._measurement = Measurement(
            pl_module, device, self._timer, arguments, TrainerRanks(trainer), self._messages
        )
        self._clock, self._meter = self._measurement.clock, self._measurement.meter
        self._counting = self._measurement.counting
        self._counted = CountedBatches(self._counting, trainer)
        marker = self._clock.marker
        self._end_wait = marker(Phase.OTHER)
        self.begin_backward, self.begin_optimizer = marker(Phase.BACKWARD), marker(Phase.OPTIMIZER)
        # With manual optimization the training step goes on.
        self.end_backward = marker(Phase.OTHER if pl_module.automatic_optimization else Phase.FORWARD)
        self._metric_log = MetricLog(trainer, self._messages.warn_once)
        self.waits: CollectiveWaits | None = None
        self._board = board_of(trainer, pl_module, self._messages.warn_once, in_loggers=arguments.board)
        self._prometheus = prometheus_of(trainer.loggers, arguments, self._messages, is_first=trainer.is_global_zero)
        self._brackets = Brackets()

    @property
    def peaks(self) -> RunPeaks:
        """The peaks that it is measured against, as they are now."""
        return self._meter.peaks

    def go_on_from(self, state: Mapping[str, Any], ended: Mapping[str, Any], *, before: float) -> None:
        """Go on with the job of a checkpoint, before training starts; a state that cannot be read is told.

        Args:
            state: What `state` returned in the fit that wrote the checkpoint.
            ended: What it returned at the end of the fit before in this process; empty if there was none.
            before: What was written to the logs later is of this process, in seconds since 1970.
        """
        try:
            job = job_of(state)
        except ValueError as error:
            self._messages.warn_once(
                "state",
                f"The state of MFUCallback in the checkpoint {error}. So the totals (total/tokens and the others) and"
                " goodput begin with this fit; training itself goes on. Resume from another checkpoint, or with the"
                " version of mfu-callback that wrote this one, to have those of the whole job.",
            )
            return
        self._measurement.go_on_from(job, last_seen(job, state, job_of(ended) if ended else None, before=before))

    def state(self) -> dict[str, Any]:
        """The state for a checkpoint, up to now or to the end of the fit; waits for nothing, and never raises."""
        try:
            # Only rank zero's is written, and a logger of another rank may wait for it to name the directory.
            directory = run_directory(self._trainer) if self._trainer.is_global_zero else None
            return checkpoint_state(self._measurement.job(), directory)
        except Exception as error:  # a device that no longer answers, a logger of the user's
            self._messages.warn_once(
                "no state",
                f"The totals of MFUCallback are not in the checkpoint ({type(error).__name__}: {error}), so a fit that"
                " resumes it begins them anew.",
            )
            return {}

    def assign_rest(self, part: str) -> None:
        """Assign all unassigned wall time so far to a part: "setup" or "sanity"."""
        self._meter.ledger.assign_rest(part)

    def start(self) -> None:
        """Find the peak and put the brackets on, at the start of training."""
        trainer, measurement = self._trainer, self._measurement
        if measurement.is_measuring:  # the same callback is in the Trainer's list twice, and so is called twice
            return
        measurement.start(
            matmul_dtype_of(trainer.precision_plugin),
            trainer.strategy.model,
            ranks_per_batch=ranks_per_batch(trainer, self._arguments.ranks_per_batch, self._messages.warn_once),
            # An operator on a DTensor counts the work of the group; on plain tensors each rank counts its own.
            tensor_parallel=group_size(self._pl_module),
            is_in_first_replica=lambda: is_in_first_replica(trainer),
        )
        self._meter.batches.of_loaders = lambda batch: batches_in(batch, trainer)
        self._steps = self._put_brackets()
        self._has_stepped = self._steps.any_since_last_asked
        self._prometheus.start()
        self._brackets.call_at_removal(self._prometheus.stop)
        self._meter.device_watch.restart()
        self._keep_at_hand()
        self.assign_rest("setup")
        self._clock.start()

    def _keep_at_hand(self) -> None:
        """Keep what every step uses where one look-up finds it."""
        self._batches, self._look_at = self._meter.batches, self._meter.batches.look_at
        self._ledger = self._meter.ledger
        self.waits, self._waits_in_steps = self._measurement.waits, self._meter.ledger.waits_in_steps
        self._end_step = self._meter.ledger.end_step if self.waits is None else self._measurement.end_step
        self._is_logging_step = private_names.logging_step(self._trainer)

    def _begin_step(self) -> None:
        if not self._in_step:
            self._meter.begin_step()
        self._in_step = True

    def _count_if_due(self) -> None:
        if self._counting.is_due():
            self._counted.put()

    def _end_first_step(self) -> None:
        self._prometheus.end_step()
        self._also_at_end = None if self._arguments.prometheus_port is None else self._prometheus.end_step
        with self._clock.during(Phase.REPORT):
            self._board.show(self._meter)

    def _put_brackets(self) -> OptimizerSteps:
        trainer, brackets, steps = self._trainer, self._brackets, OptimizerSteps(self._trainer)
        bracket_phases(brackets, trainer, self._clock, steps, self._meter.add_forward)
        brackets.call_at_removal(self._counted.remove)
        self._metric_log.put(brackets)
        if self._measurement.waits is not None:
            brackets.call_at_removal(self._measurement.waits.remove)
        if self._arguments.modules:
            Sampling(self._meter, trainer, self._pl_module, self._timer, brackets)
        if self._arguments.operators:
            operators = RunOperators(self._device)
            Profiling(self._meter, trainer, operators, self._messages.warn_once, brackets)
        return steps

    def forget_frozen(self) -> None:
        """Check again at the next batch which parameters are frozen."""
        self._counting.forget_state()

    def begin_batch(self, batch: Any) -> None:
        """Begin a batch, and a step if this is its first micro-batch."""
        if self._waits_in_steps:
            self._begin_step()
        self._end_wait()
        self._look_at(batch)
        if self._batches.in_hand.flops is None or self._ledger.ended >= self._counting.look_at:
            self._count_if_due()

    def end_batch(self) -> None:
        """End a batch, and the step if an optimizer stepped; log if the Trainer logs now."""
        if not self._has_stepped():
            return
        if not (self._steps.has_skipped and self._goes_on()):
            self._end_step()
            self._in_step = False
            if self._also_at_end is not None:
                self._also_at_end()
        if self._is_logging_step():
            self._log()

    def _goes_on(self) -> bool:
        """Whether the step goes on, since all its batches were skipped: their time is the next step's."""
        self._steps.has_skipped = False
        return not self._meter.has_work

    def finish(self) -> Summary | None:
        """Take the brackets off and sum up the run over all ranks; None if training never started."""
        self._brackets.remove()
        if not self._measurement.is_measuring:
            return None
        self._log_sent()
        is_trial_run = bool(self._trainer.fast_dev_run)  # type: ignore[attr-defined]
        summary = self._measurement.finish(self._circumstances, measure_rates=not is_trial_run)
        self.is_over = True
        return summary

    def break_off(self) -> Summary | None:
        """Take the brackets off and sum up after an exception, without waiting; None if other ranks are needed."""
        self._brackets.remove()
        summary = self._measurement.break_off(self._circumstances)
        self.is_over = self.is_over or summary is not None
        return summary

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
            self._messages.inform(line_of(summary, warmup_steps=warmup_steps))
        elif style is not None:
            print_summary(summary, warmup_steps=warmup_steps, style=style)

    def _circumstances(self) -> Circumstances:
        return circumstances_of(self._trainer, self._pl_module, batch_size=self._meter.batches.size)

    def _log(self) -> None:
        if self.waits is None:
            self._metric_log.join(self._show_values(self._measurement.take_values()))
        else:  # none waits for another here: what is read now was sent at the logging step before
            self._log_sent()
            self._measurement.begin_values(private_names.step_of_logs(self._trainer))

    def _log_sent(self) -> None:
        """Log the values that all ranks have sent, at the step that they belong to."""
        sent = self._measurement.end_values()
        if sent is not None:
            step, values = sent
            self._metric_log.send(self._show_values(values), step)

    def _show_values(self, values: dict[str, float]) -> dict[str, torch.Tensor]:
        """Show values everywhere but in the loggers; returns what these are sent."""
        if not values or self._trainer.barebones:
            return {}
        self._prometheus.show(values)
        sent = self._metric_log.show(values, in_progress_bar=IN_PROGRESS_BAR)
        if not self._board.has_dashboard:
            with self._clock.during(Phase.REPORT):
                self._board.show_dashboard(values)
        return sent
