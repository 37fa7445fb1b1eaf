"""MFUCallback: listens to the Trainer's hooks and hands the values on. The arithmetic is in metrics.py."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from mfu_callback.lightning import private_names
from mfu_callback.lightning.arguments import check_arguments
from mfu_callback.lightning.counting import Counting
from mfu_callback.lightning.metric_log import MetricLog
from mfu_callback.lightning.optimizer_steps import OptimizerSteps
from mfu_callback.lightning.peak_of_run import PeakOfRun
from mfu_callback.lightning.phases import bracket_phases
from mfu_callback.lightning.run_board import Board
from mfu_callback.lightning.sampling import Sampling
from mfu_callback.meter.batches import FlopsArgument, TokensArgument
from mfu_callback.meter.clock import Phase, StepClock, timer_for
from mfu_callback.meter.goodput import WallTime
from mfu_callback.meter.meter import MFUMeter
from mfu_callback.meter.metrics import Window, logged_values
from mfu_callback.meter.summary import Summary
from mfu_callback.meter.tags import IN_PROGRESS_BAR
from mfu_callback.meter.totals import Totals
from mfu_callback.peaks import PeakArgument
from mfu_callback.report.end_of_fit import print_summary
from mfu_callback.tools.brackets import Brackets

# What is there while a run goes on, and in no copy of the callback.
_OF_A_RUN = ("_meter", "_counting", "_peak_of_run", "_steps", "_metric_log", "_board")


class MFUCallback(Callback):
    """Logs tokens/sec, MFU and where the rest of the machine went, for any LightningModule.

    Counts the forward FLOPs in the first training batch of every shape (those steps and the warm-up are left out of
    the timing), takes ``1 + backward_factor`` times that for forward and backward, and times every step by phases.
    Logs at the Trainer's ``log_every_n_steps``, at the step of the user's metrics:

    ==================================== ============================== =====================================
    tag                                  unit                           absent when
    ==================================== ============================== =====================================
    ``throughput/tokens_per_sec``        1/s, all devices               the batch has no tokens
    ``throughput/real_tokens_per_sec``   1/s, all devices               no attention mask tells the padding
    ``throughput/samples_per_sec``       1/s, all devices               the batch has no tensor
    ``throughput/device/tokens_per_sec`` 1/s, one device                the batch has no tokens
    ``throughput/device/tflops_per_sec`` 1e12 model FLOP/s, one device  FLOPs are unknown
    ``throughput/mfu``                   fraction of peak               FLOPs or the peak are unknown
    ``throughput/mfu_achievable``        fraction of the measured peak  none was measured yet
    ``throughput/hfu``                   fraction of peak               nothing is recomputed in the backward
    ``time/step_sec``                    s                              never
    ``time/step_sec_min``, ``_max``      s, fastest, slowest device     there is one device
    ``waterfall/*`` (six)                fraction; they sum to 1        MFU is unknown
    ``memory/peak_gib``                  GiB                            the device does not report it
    ==================================== ============================== =====================================

    After fit, :attr:`summary` holds the whole run's figures; a short table of them is printed, and
    ``mfu_summary.json`` written to the logger's directory.

    Args:
        flops: "thop" counts every operator, those of Linear and Conv modules by thop's rules; "dispatch" counts
            operators alone; "thop-modules" takes exactly what `thop.profile` would return, times 2; a number is the
            model FLOPs of forward and backward per token; a callable gets the batch and returns the model FLOPs of
            its forward and backward.
        backward_factor: FLOPs of a backward pass over those of its forward pass; "measured" takes the backward
            FLOPs that really ran with the counted batch.
        attention: "full" counts the whole T x S square of attention, as the field does; "causal" only the pairs that
            attend: half the square for a causal kernel, exactly those of a window or a mask.
        peak: Dense peak of one device, in FLOP/s or as a `Peak`; None looks the device up at the dtype that the matmuls
            run in, and measures it where it is unknown; "measured" takes the measured one always. A measured peak is
            kept on disk (`measure_peak`).
        tokens: Tokens of every batch, or a callable from a batch to its tokens; None finds them (`count_tokens`).
        sync: When the device is waited for: "step", at both ends of each step; "window", only where metrics are logged;
            "events", never: its events are read when it has come to them. All the same on a CPU.
        warmup_steps: Optimizer steps at the start of fit to leave out.
        modules: Whether to time every module in a few batches, whose steps are left out of the timing; the summary and
            the report then tell FLOPs, time and MFU by module.
        board: Whether TensorBoard loggers are given a dashboard (custom scalars), a card (text) and HParams beside the
            values, and what the tab "MFU" shows of the run.

    Raises:
        ValueError: If an argument is not one of these.

    Example:
        >>> trainer = Trainer(callbacks=[MFUCallback()])  # doctest: +SKIP
    """

    def __init__(
        self,
        *,
        flops: FlopsArgument = "thop",
        backward_factor: float | str = 2.0,
        attention: str = "full",
        peak: PeakArgument = None,
        tokens: TokensArgument = None,
        sync: str = "step",
        warmup_steps: int = 3,
        modules: bool = False,
        board: bool = True,
    ) -> None:
        super().__init__()
        check_arguments(flops, backward_factor, attention, peak, tokens, sync, warmup_steps)
        self.summary: Summary | None = None
        self._flops = flops
        self._backward_factor = backward_factor
        self._attention = attention
        self._peak = peak
        self._tokens = tokens
        self._sync = sync
        self._warmup_steps = warmup_steps
        self._modules = modules
        self._in_tensorboard = board
        self._brackets = Brackets()
        self._wall = WallTime()
        self._meter: MFUMeter | None = None
        self._peak_of_run: PeakOfRun | None = None
        self._counting: Counting | None = None
        self._steps: OptimizerSteps | None = None
        self._metric_log: MetricLog | None = None
        self._board: Board | None = None
        self._in_step = False
        self._warned: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """What a copy of the callback takes over: its arguments and its summary, nothing of a run that is going on."""
        return {**vars(self), "_brackets": Brackets(), **dict.fromkeys(_OF_A_RUN)}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Fit begins, and with it the wall time."""
        if stage == "fit":
            self._wall = WallTime()
            self._warned.clear()
            self._board = Board(trainer, pl_module, self._warn_once, in_tensorboard=self._in_tensorboard)

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What came before was setting up."""
        self._wall.rest_is("setup")

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The sanity check is over."""
        self._wall.rest_is("sanity")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the peak and put the brackets on."""
        device = trainer.strategy.root_device
        timer = timer_for(device)
        clock = StepClock(timer)
        self._meter = MFUMeter(
            clock=clock,
            device=device,
            flops=self._flops,
            backward_factor=self._backward_factor,
            attention=self._attention,
            tokens=self._tokens,
            sync=self._sync,
            warmup_steps=self._warmup_steps,
            tensor_parallel=private_names.tensor_parallel_size(trainer),
            wall=self._wall,
        )
        self._peak_of_run = PeakOfRun(self._meter, self._peak, device, self._warn_once)
        self._peak_of_run.find(private_names.matmul_dtype(trainer))
        self._counting = Counting(self._meter, pl_module, self._warn_once, self._peak_of_run.follow)
        self._steps = OptimizerSteps(trainer)
        self._in_step = False
        self._put_brackets(trainer, clock, self._counting, self._steps)
        if self._modules:
            Sampling(self._meter, trainer, pl_module, timer, self._brackets)
        self._wall.rest_is("setup")
        clock.start()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Parts of the model may be frozen or thawed between epochs."""
        if self._counting is not None:
            self._counting.forget_state()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Begin a step with its first micro-batch."""
        if self._meter is None:
            return
        if not self._in_step:
            self._meter.begin_step()
            self._in_step = True
        self._meter.clock.enter(Phase.OTHER)
        self._meter.look_at(batch)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor) -> None:
        """The forward is over."""
        if self._meter is not None:
            self._meter.clock.enter(Phase.BACKWARD)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The backward is over; a module that drives it itself is in its training step still."""
        if self._meter is not None:
            self._meter.clock.enter(Phase.OTHER if pl_module.automatic_optimization else Phase.FORWARD)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Clipping and the optimizer begin."""
        if self._meter is not None:
            self._meter.clock.enter(Phase.OPTIMIZER)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End the step if an optimizer stepped, and log where the Trainer logs."""
        if self._meter is None or self._steps is None or not self._steps.any_since_last_asked():
            return
        self._meter.end_step()
        self._in_step = False
        if self._board is not None and not self._board.is_shown:
            with self._meter.clock.during(Phase.REPORT):
                self._board.show(self._meter)
        if private_names.is_logging_step(trainer):
            self._log(trainer, self._meter)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the brackets off and sum the run up."""
        self._brackets.remove()
        if self._meter is not None:
            self._finish(trainer, _all_ranks(trainer, self._meter.run_totals()))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Take the brackets off; sum up what one process alone knows."""
        self._brackets.remove()
        if self._meter is not None and trainer.world_size == 1:
            with suppress(RuntimeError):  # of a device that is in no state to be asked
                self._finish(trainer, [self._meter.run_totals(wait=False)])
        self._let_go()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the brackets off and let the run go."""
        self._brackets.remove()
        self._let_go()

    def _finish(self, trainer: Trainer, ranks: list[Totals]) -> None:
        if self._meter is None:
            return
        self.summary = self._meter.summary(ranks)
        self._meter = None
        if trainer.is_global_zero:
            with suppress(OSError, UnicodeError):  # a pipe that is closed, a console of another encoding, a full disk
                print_summary(self.summary, warmup_steps=self._warmup_steps)
            if self._board is not None:
                self._board.end(self.summary)

    def _let_go(self) -> None:
        if self._board is not None:
            self._board.close()
        vars(self).update(dict.fromkeys(_OF_A_RUN))

    def _log(self, trainer: Trainer, meter: MFUMeter) -> None:
        ranks = _all_ranks(trainer, meter.take_window())
        if not all(rank.steps for rank in ranks):
            return
        window = Window(ranks=tuple(ranks))
        if self._peak_of_run is not None:
            self._peak_of_run.doubt(window)
        if self._metric_log is not None:
            values = logged_values(window)
            self._metric_log.log(values, in_progress_bar=IN_PROGRESS_BAR)
            if self._board is not None and not self._board.has_dashboard:
                with meter.clock.during(Phase.REPORT):
                    self._board.show_dashboard(values)

    def _put_brackets(self, trainer: Trainer, clock: StepClock, counting: Counting, steps: OptimizerSteps) -> None:
        self._brackets.put(trainer.strategy, "training_step", counting.around_training_step)
        self._brackets.put(private_names.optimization_loop(trainer), "run", counting.around_step)
        bracket_phases(self._brackets, trainer, clock, steps.tell)
        if not trainer.barebones:
            self._metric_log = MetricLog(trainer, self._brackets)

    def _warn_once(self, subject: str, message: str) -> None:
        if subject not in self._warned:
            self._warned.add(subject)
            rank_zero_warn(message)


def _all_ranks(trainer: Trainer, totals: Totals) -> list[Totals]:
    if trainer.world_size == 1:
        return [totals]
    # MPS has no float64; everywhere else the counts of long runs need it.
    device = trainer.strategy.root_device
    dtype = torch.float32 if device.type == "mps" else torch.float64
    rows = trainer.strategy.all_gather(torch.tensor(totals.as_row(), dtype=dtype, device=device))
    return [Totals.from_row(row) for row in rows.tolist()]
