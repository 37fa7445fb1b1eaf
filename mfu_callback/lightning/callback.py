"""MFUCallback, the public callback. It passes the Trainer's hooks to the measured run (run.py)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch

from mfu_callback.flops import Attention
from mfu_callback.lightning.evaluation_hooks import EvaluationHooks
from mfu_callback.lightning.guard import give_up, never_raises
from mfu_callback.lightning.namespaces import Callback
from mfu_callback.lightning.run import MeasuredRun
from mfu_callback.meter.arguments import Arguments, SummaryStyle
from mfu_callback.meter.batches import TokensArgument
from mfu_callback.meter.conventions import BackwardFactor, FlopsArgument
from mfu_callback.meter.ledger import Sync
from mfu_callback.meter.summary import Summary
from mfu_callback.peaks import PeakArgument
from mfu_callback.tools.options import FLAG

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


class MFUCallback(EvaluationHooks):
    """Logs tokens/sec, MFU and where the rest of the device's peak was lost, for any LightningModule.

    Counts the FLOPs of the forward pass in the first training batch of every shape. Forward and backward together count
    as ``1 + backward_factor`` times that. Times every step by phases; the counted steps and the warm-up are left out of
    the timing. Logs at the Trainer's ``log_every_n_steps``, at the same step as the user's metrics:

    ==================================== ============================= =================================================
    tag                                  unit                          logged when
    ==================================== ============================= =================================================
    ``throughput/tokens_per_sec``        1/s, all devices              the batch has tokens
    ``throughput/real_tokens_per_sec``   1/s, all devices              attention masks mark the padding
    ``throughput/loss_tokens_per_sec``   1/s, all devices              the tokens have labels: those not -100
    ``throughput/samples_per_sec``       1/s, all devices              the batch has a tensor
    ``throughput/device/tokens_per_sec`` 1/s, one device               the batch has tokens
    ``throughput/device/tflops_per_sec`` 1e12 FLOP/s, one device       FLOPs are known
    ``throughput/mfu``                   fraction of the peak          FLOPs and the peak are known
    ``throughput/mfu_achievable``        fraction of the measured peak a measured peak is known
    ``throughput/hfu``                   fraction of the peak          something is recomputed: MFU with that added
    ``time/step_sec``                    s                             always
    ``time/step_sec_min``                s, fastest device             there are several devices
    ``time/step_sec_max``                s, slowest device             there are several devices
    ``waterfall/mfu``                    fraction                      MFU is known; all parts sum to 1
    ``waterfall/unreachable``            fraction                      what this device's best matmul needs beyond that
    ``waterfall/kernels``                fraction                      forward and backward below the best matmul
    ``waterfall/communication``          fraction                      several devices: collectives that nothing hides
    ``waterfall/waiting``                fraction                      several devices: what even the last one waits
    ``waterfall/data``                   fraction                      waiting for the next batch
    ``waterfall/optimizer``              fraction                      gradient clipping and the optimizer
    ``waterfall/other``                  fraction                      callbacks, logging, the rest
    ``memory/peak_gib``                  GiB                           the device reports it
    ``memory/reserved_gib``              GiB                           the device reports it: what its allocator holds
    ``memory/device_share``              fraction                      the device reports it: that over its memory
    ``memory/alloc_retries``             count, all devices            the device reports it: full, cache was emptied
    ``memory/ooms``                      count, all devices            the device reports it: errors out of memory
    ``memory/resident_gib``              GiB, largest process          the device is a CPU
    ``gpu/power_watts``                  W, one device                 nvidia-ml-py is there
    ``gpu/clock_share``                  fraction, slowest device      nvidia-ml-py is there: of its highest clock
    ``total/tokens``                     count, all devices            the batch has tokens: since the job began
    ``total/samples``                    count, all devices            the batch has a tensor: since the job began
    ``total/flops``                      FLOPs, all devices            FLOPs are known: since the job began
    ``total/device_hours``               h, all devices                always: since the job began
    ==================================== ============================= =================================================

    After fit, :attr:`summary` holds the figures of the whole run. They are printed (``summary=``), and
    ``mfu_summary.json`` is written to the run's directory. Where a step takes less than 5 ms, no advice is given on
    its parts, which are then mostly the loop's own. After ddp_spawn, ddp_fork and ddp_notebook, :attr:`summary` and
    :attr:`evaluations` are those of process 0.

    The totals and the goodput are those of a job: a fit, and all fits that went on from its checkpoints
    (``trainer.fit(ckpt_path=)``), in which they are kept. Warm-up and counted steps are in the totals. What was done
    after a checkpoint and given up by going back to it is not: of the wall time it is "lost", and the time in which
    nothing ran is "down" (`mfu_callback.lightning.restart.last_seen` says how far the two can be told apart).

    ``trainer.validate``, ``test`` and ``predict`` are measured too, over one forward pass a batch. At the end of each,
    the tags of throughput and time, and the waterfall without the parts of training, are logged under the stage:
    ``test/throughput/mfu``, ``predict/time/step_sec``. :attr:`evaluations` holds the figures of the latest loop of each
    stage: "validate", "test", "predict".

    Args:
        flops: "thop" counts every operator, those of Linear and Conv modules by thop's rules. "dispatch" counts
            operators alone. "thop-modules" uses exactly what `thop.profile` would return, times 2. Without thop, "thop"
            counts by the rules for operators, and "thop-modules" is refused. A number is the
            model FLOPs of forward and backward per token. A callable receives the batch and returns the model FLOPs of
            its forward and backward. Of given FLOPs, a batch that is evaluated takes ``1 / (1 + backward_factor)``.
        backward_factor: FLOPs of a backward pass over those of its forward pass; "measured" uses the backward FLOPs
            that really ran in the counted batch.
        attention: "full" counts the whole T x S square of attention, as the field does. "causal" counts only the pairs
            that attend: half the square for a causal kernel, exactly the pairs of a window or a mask.
        peak: Dense peak of one device, in FLOP/s or as a `Peak`. None looks the device up at the dtype of the matmuls,
            and measures it if it is unknown. "measured" always uses the measured peak. A measured peak is kept on
            disk (`measure_peak`).
        tokens: Tokens of every batch, or a callable that returns those of a batch; None takes the integers that the
            model looks up in a table of vectors, and what `count_tokens` finds where FLOPs are given.
        ranks_per_batch: Number of ranks that are handed the same batch and share the work on it (tensor, pipeline and
            context parallelism); its tokens and samples then count once. None follows the strategy's
            ``distributed_sampler_kwargs``: all ranks of a mesh outside of ``data_parallel``. 1 if each rank is handed
            tokens of its own, such as its part of each sequence.
        sync: When to wait for the device: "events", never: device events are read once the device has reached them;
            "window", only when metrics are logged; "step", at both ends of each step, so that the host cannot run
            ahead, which slows every run whose host is late now and then. On a CPU all are the same.
        warmup_steps: Number of optimizer steps to leave out at the start of fit, and of batches at the start of
            validate, test and predict.
        modules: Whether to time each module in a few batches, whose steps are left out of all other figures. The
            summary and the report then have FLOPs, time and MFU by module.
        operators: Whether to profile the operators of a few batches, whose steps are left out of all other figures. The
            summary and the report then have a table of operators (calls, time, FLOPs, bytes, the share of their
            roofline) and what the part "kernels" consists of. Two more seconds at the end of fit.
        validation: Whether to measure the validations inside of fit too, each of which is then logged at its end under
            ``validate/``. Never the sanity check.
        board: Whether to write a dashboard (custom scalars), a card (text), HParams and the data of the tab "MFU" to
            TensorBoard loggers, and the card to those of W&B, MLflow and Comet, besides the values.
        summary: What is printed at the end of fit, validate, test and predict: "table", the figures and the waterfall;
            "line", one line; None, nothing. "auto" prints the table on a terminal and in a notebook, and the line
            elsewhere. Under a Trainer with a logger and ``enable_progress_bar=False`` it prints nothing, and the line
            goes to Lightning's log.
        prometheus_port: Port at which global rank zero serves the latest values to Prometheus during training, under
            ``/metrics``; 0 takes any free one, which the log names. None serves nothing. Needs prometheus-client.
        prometheus_host: Address to listen on: this machine alone, unless told otherwise.

    Raises:
        ValueError: If an argument has a value that is not allowed.

    Example:
        >>> trainer = Trainer(callbacks=[MFUCallback()])  # doctest: +SKIP
    """

    def __init__(
        self,
        *,
        flops: FlopsArgument = "thop",
        backward_factor: BackwardFactor = 2.0,
        attention: Attention = "full",
        peak: PeakArgument = None,
        tokens: TokensArgument = None,
        ranks_per_batch: int | None = None,
        sync: Sync = "events",
        warmup_steps: int = 3,
        modules: bool = False,
        operators: bool = False,
        validation: bool = False,
        board: bool = True,
        summary: SummaryStyle = "auto",
        prometheus_port: int | None = None,
        prometheus_host: str = "127.0.0.1",
    ) -> None:
        self._made_at = time.time()
        self._state: dict[str, Any] = {}  # at the end of the latest fit
        arguments = Arguments(
            flops=flops,
            backward_factor=backward_factor,
            attention=attention,
            peak=peak,
            tokens=tokens,
            ranks_per_batch=ranks_per_batch,
            sync=sync,
            warmup_steps=warmup_steps,
            modules=modules,
            operators=operators,
            board=board,
            summary=summary,
            prometheus_port=prometheus_port,
            prometheus_host=prometheus_host,
        )
        super().__init__(arguments, validation=FLAG.checked("validation", validation))

    def __getstate__(self) -> dict[str, Any]:
        """State for copies: the arguments and the figures, without a run in progress."""
        return {**super().__getstate__(), "_run": None, "_evaluation": None}

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint: what the job has done so far, on all devices.

        Rank zero's is written, which waits for no other rank: what the others have done since the latest values is
        taken to be what rank zero has done since then.
        """
        return self._state if self._run is None else self._run.state()

    # A Trainer refuses two callbacks of one kind whose state_dict, or what it wraps, is not Callback's. Two of ours are
    # of one job, and share its state.
    state_dict.__wrapped__ = Callback.state_dict  # type: ignore[attr-defined]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the job of a checkpoint that fit resumes; elsewhere this does nothing.

        Args:
            state_dict: What `state_dict` returned. One that cannot be read is ignored, with a warning.
        """
        if self._run is not None:  # validate, test and predict hand it over too
            self._run.go_on_from(state_dict, self._state, before=self._made_at)

    @never_raises
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Fit begins."""
        if stage == "fit":
            self._begin(trainer, pl_module)

    @never_raises
    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Setup is over."""
        if self._run is not None:
            self._run.assign_rest("setup")

    @never_raises
    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The sanity check is over."""
        if self._run is not None:
            self._run.assign_rest("sanity")

    @never_raises
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training starts."""
        run = self._run
        if run is None or run.is_over:  # put in by another callback's hook, or a second loop in one fit
            run = self._begin(trainer, pl_module)
        run.start()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """An epoch begins."""
        if self._run is not None:
            self._run.forget_frozen()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """A batch begins."""
        run = self._run
        if run is not None:
            try:
                run.begin_batch(batch)
            except Exception as error:
                give_up(self, trainer, error)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor) -> None:
        """The forward pass is over and the backward pass begins."""
        run = self._run
        if run is not None:
            run.begin_backward()
            if run.waits is not None:
                run.waits.begin_backward(loss)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The backward pass is over."""
        run = self._run
        if run is not None:
            run.end_backward()

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Gradient clipping and the optimizer step begin."""
        run = self._run
        if run is not None:
            run.begin_optimizer()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A batch is over."""
        run = self._run
        if run is not None:
            try:
                run.end_batch()
            except Exception as error:
                give_up(self, trainer, error)

    @never_raises
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training is over."""
        if self._run is not None:
            self._show(trainer, self._run, self._run.finish())

    @never_raises
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The run is ended by an exception."""
        if self._run is not None:
            self._show(trainer, self._run, self._run.break_off())
        self._let_go()

    @never_raises
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """The run is over."""
        self._let_go()

    def _begin(self, trainer: Trainer, pl_module: LightningModule) -> MeasuredRun:
        self._let_go()  # of a fit that ended without a teardown
        run = self._run = MeasuredRun(trainer, pl_module, self._arguments)
        return run

    def _show(self, trainer: Trainer, run: MeasuredRun, summary: Summary | None) -> None:
        if summary is not None:
            self._keep_summary(trainer, summary)
            run.show(summary)

    def _let_go(self) -> None:
        self._let_go_of_evaluation()
        run, self._run = self._run, None
        if run is not None:
            self._state = run.state()
            run.close()
