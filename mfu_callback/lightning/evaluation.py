"""The measured loops of one evaluation: validate, test, predict, or the validations inside a fit."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch

from mfu_callback.flops import FlopCount
from mfu_callback.flops.rules.shards import group_size
from mfu_callback.lightning import private_names
from mfu_callback.lightning.counted import counted_call
from mfu_callback.lightning.namespaces import rank_zero_info, rank_zero_warn
from mfu_callback.lightning.refusals import Refusals
from mfu_callback.lightning.sharing import ranks_per_batch
from mfu_callback.lightning.trainer_ranks import TrainerRanks
from mfu_callback.meter.arguments import Arguments
from mfu_callback.meter.clock import Phase, StepClock, timer_for
from mfu_callback.meter.counting import Counting
from mfu_callback.meter.evaluation import Evaluation, evaluation_values
from mfu_callback.meter.messages import Messages
from mfu_callback.meter.meter import RunMeter
from mfu_callback.meter.metrics import Window
from mfu_callback.meter.peak_of_run import PeakOfRun
from mfu_callback.meter.precision import matmul_dtype_of
from mfu_callback.meter.ranks import exchanged
from mfu_callback.meter.run_peaks import RunPeaks
from mfu_callback.meter.totals import Totals
from mfu_callback.report.end_of_evaluation import line_of_evaluation, print_evaluation
from mfu_callback.tools.brackets import Brackets, Function

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

_STEPS = {"validate": "validation_step", "test": "test_step", "predict": "predict_step"}


class MeasuredEvaluation:
    """Measures the loops of one stage: a single one, or the validations of a fit, which share counts and warm-up.

    A step is one batch, from the end of the batch before, with the wait for its data. Within a loop there are brackets
    around the fetch and the step; between loops there is nothing.

    Args:
        trainer: The Trainer, at the start of a loop.
        pl_module: The model.
        arguments: The arguments of `MFUCallback`.
        stage: One of `mfu_callback.meter.evaluation.STAGES`.
        peaks_of_fit: Returns the peaks of the fit that the validations are in; None finds the peak.
    """

    def __init__(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        arguments: Arguments,
        stage: str,
        peaks_of_fit: Callable[[], RunPeaks] | None = None,
    ) -> None:
        self._trainer = trainer
        self._arguments = arguments
        self._stage = stage
        self._peaks_of_fit = peaks_of_fit
        self._messages = Messages(rank_zero_info, rank_zero_warn)
        self._refusals = Refusals(trainer, self._messages.warn_once)
        self._is_in_loop = self._is_in_batch = False
        self._is_first_fetch = True
        self._brackets = Brackets()
        device = trainer.strategy.root_device
        self._clock = StepClock(timer_for(device))
        self._meter = RunMeter.of(arguments, self._clock, device, forward_only=True)
        self._meter.share_batches(
            ranks_per_batch(trainer, arguments.ranks_per_batch, self._messages.warn_once),
            tensor_parallel=group_size(pl_module),
        )
        self._peak = PeakOfRun(self._meter, arguments.peak, device, self._messages)
        self._counting = Counting(
            self._meter, pl_module, self._messages, self._messages.warn_once, self._take_first_count
        )
        if peaks_of_fit is None:
            self._peak.find(matmul_dtype_of(trainer.precision_plugin))
        if arguments.backward_factor == "measured" and not isinstance(arguments.flops, str):
            self._messages.warn_once(
                "given",
                "flops= gives the FLOPs of forward and backward together, and backward_factor='measured' does not"
                f" divide them, so MFU of {stage} is left out. Pass backward_factor= as a number.",
            )

    def start(self) -> None:
        """Begin a loop: put the brackets on."""
        if self._is_in_loop:  # the same callback is in the Trainer's list twice, and so is called twice
            return
        self._is_in_loop = self._is_first_fetch = True
        self._meter.ledger.step_times.clear()
        self._meter.ledger.steps_by_part.clear()
        fetcher = private_names.data_fetcher(self._trainer, self._stage)
        self._brackets.put(fetcher, private_names.START_OF_FETCH, self._around_start_of_fetch)
        self._brackets.put(self._trainer.strategy, _STEPS[self._stage], self._around_step)

    def begin_batch(self, batch: Any) -> None:
        """Begin a batch, which was fetched and moved to the device."""
        if self._is_in_batch:
            return
        self._is_in_batch = True
        self._meter.begin_step()
        self._clock.enter(Phase.OTHER)
        self._meter.look_at(batch)

    def end_batch(self) -> None:
        """End a batch."""
        if self._is_in_batch:
            self._meter.end_step()
        self._is_in_batch = False

    def finish(self) -> Evaluation | None:
        """End a loop on all ranks: take the brackets off, log its values and sum it up; None if it has ended before."""
        if not self._is_in_loop:
            return None
        self.close()
        if self._peaks_of_fit is not None:
            self._meter.peaks = self._peaks_of_fit()
        totals = self._meter.take_last_window()
        if self._peaks_of_fit is None and totals.steps and not math.isnan(totals.flops):
            self._peak.settle()
        window = Window(ranks=tuple(self._all_ranks(self._meter.with_peaks(totals))))
        values = evaluation_values(self._stage, window)
        if values:
            self._peak.warn_if_above_one(window)
        if not self._trainer.barebones:
            self._log(values)
        return self._figures(window)

    def show(self, evaluation: Evaluation) -> None:
        """Print the figures of a loop, as ``summary=`` says."""
        style, warmup_steps = self._arguments.summary, self._arguments.warmup_steps
        if style is None or not self._trainer.is_global_zero:
            return
        with suppress(OSError, ValueError):  # a closed pipe or stream, a console of another encoding
            if style == "auto" and self._trainer.progress_bar_callback is None and self._trainer.loggers:
                self._messages.inform(line_of_evaluation(evaluation, warmup_steps=warmup_steps))
            else:
                print_evaluation(evaluation, warmup_steps=warmup_steps, style=style)

    def close(self) -> None:
        """Take the brackets off, wherever the loop has ended."""
        self._brackets.remove()
        self._is_in_loop = self._is_in_batch = False

    def _around_start_of_fetch(self, start: Function) -> Function:
        @functools.wraps(start)
        def call() -> None:
            if self._is_first_fetch:  # what was before it, such as the hooks of the loop's start, is no batch's
                self._clock.start()
                self._is_first_fetch = False
            self._clock.enter(Phase.DATA)
            start()

        return call

    def _around_step(self, step: Function) -> Function:
        @functools.wraps(step)
        def call(*args: Any, **kwargs: Any) -> Any:
            if args and isinstance(args[0], Iterator):
                self._leave_out()
                return step(*args, **kwargs)
            self._clock.enter(Phase.FORWARD)
            out = self._counted(step, args, kwargs)
            self._meter.add_forward()
            self._clock.enter(Phase.OTHER)
            return out

        return call

    def _counted(self, step: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The forward pass of a batch, counted if it must be."""
        if not self._counting.is_due():
            return step(*args, **kwargs)
        with self._counting.batch():
            return counted_call(self._counting, self._trainer, step, args, kwargs)

    def _leave_out(self) -> None:
        self._meter.leave_out("rest")
        self._messages.warn_once(
            "iterator",
            f"{_STEPS[self._stage]} fetches its batches itself (dataloader_iter), so they are not seen, and the figures"
            f" of {self._stage} are left out. Take the batch instead.",
        )

    def _take_first_count(self, count: FlopCount) -> None:
        if self._peaks_of_fit is None:
            self._peak.take_count(count)

    def _figures(self, window: Window) -> Evaluation:
        meter = self._meter
        return Evaluation.of(
            self._stage,
            window,
            meter.ledger.step_times,
            flops=meter.flops.first,
            conventions=None if meter.flops.first is None else str(meter.conventions),
            peak=meter.peaks.peak,
            achievable=meter.peaks.achievable,
            steps_by_part=dict(meter.ledger.steps_by_part),
        )

    def _log(self, values: dict[str, float]) -> None:
        tensors = {name: torch.tensor(value, dtype=torch.float32) for name, value in values.items()}
        private_names.show_metrics(self._trainer, tensors, in_progress_bar={})
        # As validate and test do with their own at the end of an epoch.
        with self._refusals.watched(tensors, alone=True):
            private_names.log_at(self._trainer, tensors, private_names.step_of_logs(self._trainer))

    def _all_ranks(self, totals: Totals) -> list[Totals]:
        if self._trainer.world_size == 1:
            return [totals]
        return exchanged(totals, TrainerRanks(self._trainer), self._trainer.strategy.root_device)
