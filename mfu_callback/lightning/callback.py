"""MFUCallback: the public callback. It hands every hook of the Trainer's to the run that it measures (run.py)."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from mfu_callback.lightning.arguments import Arguments
from mfu_callback.lightning.run import MeasuredRun
from mfu_callback.meter.batches import TokensArgument
from mfu_callback.meter.conventions import FlopsArgument
from mfu_callback.meter.summary import Summary
from mfu_callback.peaks import PeakArgument


class MFUCallback(Callback):
    """Logs tokens/sec, MFU and where the rest of the machine went, for any LightningModule.

    Counts the forward FLOPs in the first training batch of every shape (those steps and the warm-up are left out of
    the timing), takes ``1 + backward_factor`` times that for forward and backward, and times every step by phases.
    Logs at the Trainer's ``log_every_n_steps``, at the step of the user's metrics:

    ==================================== ============================= =================================================
    tag                                  unit                          logged when
    ==================================== ============================= =================================================
    ``throughput/tokens_per_sec``        1/s, all devices              the batch has tokens
    ``throughput/real_tokens_per_sec``   1/s, all devices              attention masks tell tokens from padding
    ``throughput/samples_per_sec``       1/s, all devices              the batch has a tensor
    ``throughput/device/tokens_per_sec`` 1/s, one device               the batch has tokens
    ``throughput/device/tflops_per_sec`` 1e12 FLOP/s, one device       FLOPs are known
    ``throughput/mfu``                   fraction of the peak          FLOPs and the peak are known
    ``throughput/mfu_achievable``        fraction of the measured peak a measured peak is known
    ``throughput/hfu``                   fraction of the peak          something is recomputed: MFU with that added
    ``time/step_sec``                    s                             always
    ``time/step_sec_min``                s, fastest device             there are several devices
    ``time/step_sec_max``                s, slowest device             there are several devices
    ``waterfall/mfu``                    fraction                      MFU is known; all six sum to 1
    ``waterfall/data``                   fraction                      waiting for the next batch
    ``waterfall/optimizer``              fraction                      gradient clipping and the optimizer
    ``waterfall/other``                  fraction                      callbacks, logging, the rest
    ``waterfall/kernels``                fraction                      forward and backward below the achievable rate
    ``waterfall/unreachable``            fraction                      what no matmul reaches of the peak on this device
    ``memory/peak_gib``                  GiB                           the device reports it
    ==================================== ============================= =================================================

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
        self.summary: Summary | None = None
        self._arguments = Arguments(
            flops=flops,
            backward_factor=backward_factor,
            attention=attention,
            peak=peak,
            tokens=tokens,
            sync=sync,
            warmup_steps=warmup_steps,
            modules=modules,
            board=board,
        )
        self._run: MeasuredRun | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What a copy of the callback takes over: its arguments and its summary, nothing of a run that is going on."""
        return {**vars(self), "_run": None}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Fit begins."""
        if stage == "fit":
            self._let_go()  # of a fit that ended without a teardown
            self._run = MeasuredRun(trainer, pl_module, self._arguments)

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Setting up is over."""
        if self._run is not None:
            self._run.rest_was("setup")

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The sanity check is over."""
        if self._run is not None:
            self._run.rest_was("sanity")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training starts."""
        if self._run is not None:
            self._run.start()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """An epoch begins."""
        if self._run is not None:
            self._run.forget_frozen()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """A batch begins."""
        if self._run is not None:
            self._run.begin_batch(batch)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor) -> None:
        """The forward is over."""
        if self._run is not None:
            self._run.begin_backward()

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The backward is over."""
        if self._run is not None:
            self._run.end_backward()

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Clipping and the optimizer begin."""
        if self._run is not None:
            self._run.begin_optimizer()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A batch is over."""
        if self._run is not None:
            self._run.end_batch()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training is over."""
        if self._run is not None:
            self.summary = self._run.finish() or self.summary

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The run breaks off."""
        if self._run is not None:
            self.summary = self._run.break_off() or self.summary
            self._let_go()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """The run is over."""
        self._let_go()

    def _let_go(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.close()
