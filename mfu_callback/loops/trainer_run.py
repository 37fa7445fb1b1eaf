"""One measured training of a Hugging Face Trainer: all state that exists only while it runs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mfu_callback.board.serving import prometheus_of
from mfu_callback.flops.rules.shards import group_size
from mfu_callback.loops.blocks import Blocks
from mfu_callback.loops.ending import show_summary
from mfu_callback.loops.process_group import ProcessGroup
from mfu_callback.loops.rank_messages import messages_of
from mfu_callback.loops.trainer_board import board_of
from mfu_callback.loops.trainer_facts import circumstances_of, matmul_dtype, ranks_per_batch
from mfu_callback.loops.unwrapped import ddp_of, unwrapped
from mfu_callback.meter.arguments import Arguments
from mfu_callback.meter.circumstances import Circumstances
from mfu_callback.meter.clock import Phase, timer_for
from mfu_callback.meter.measurement import Measurement
from mfu_callback.meter.summary import Summary
from mfu_callback.tools.brackets import Brackets, Function

# The methods of a Trainer that have a bracket while it trains. `_run_epoch` came with transformers 5.3.
_METHODS = (
    *("_run_epoch", "_finalize_training", "_save_checkpoint", "save_model", "evaluate", "predict"),
    *("get_batch_samples", "training_step", "log"),
)


def missing_methods(trainer: Any) -> list[str]:
    """The methods that this Trainer would need and does not have.

    Args:
        trainer: The Trainer.
    """
    return [name for name in _METHODS if not hasattr(trainer, name)]


class TrainerRun:
    """Measures one call of ``Trainer.train()``, logs its values and sums it up.

    Args:
        trainer: A Trainer that is about to train.
        arguments: The arguments of `MFUCallback`.
        loader: The loader of the training data.
        take_summary: Called with the figures of the whole run at its end.
    """

    def __init__(
        self, trainer: Any, arguments: Arguments, loader: Any, take_summary: Callable[[Summary], None]
    ) -> None:
        self._trainer = trainer
        self._arguments = arguments
        self._loader = loader
        self._take_summary = take_summary
        self._in_step = self._has_begun = False
        self._model = trainer.model_wrapped
        self._inner = unwrapped(self._model)
        self._ranks = ProcessGroup()
        messages = messages_of(self._ranks, "MFUTrainerCallback")
        device = trainer.args.device
        timer = timer_for(device)
        one = self._measurement = Measurement(
            self._inner, device, timer, arguments, self._ranks, messages, loop="hugging face"
        )
        self._clock, self._meter = one.clock, one.meter
        self._blocks = Blocks(one, self._model, self._inner, device, timer, messages)
        is_first = self._ranks.index == 0
        self._board = board_of(trainer, self._inner, messages, is_first_rank=is_first, in_tensorboard=arguments.board)
        # A Trainer's run has no logger with a name.
        self._prometheus = prometheus_of((), arguments, messages, is_first=is_first)
        self._brackets = Brackets()

    def start(self) -> None:
        """Find the peak and put the brackets on."""
        shared = group_size(self._inner)
        self._measurement.start(
            matmul_dtype(self._trainer, self._inner),
            ddp_of(self._model),
            ranks_per_batch=self._arguments.ranks_per_batch or ranks_per_batch(self._trainer, shared),
            tensor_parallel=shared,
        )
        self._put_brackets()
        self._prometheus.start()
        self._brackets.call_at_removal(self._prometheus.stop)
        self._meter.device_watch.restart()
        self._meter.ledger.assign_rest("setup")

    def begin_epoch(self) -> None:
        """Begin an epoch; the clock of the steps starts with the first one."""
        if not self._has_begun:
            self._has_begun = True
            self._meter.ledger.assign_rest("sanity" if self._trainer.args.eval_on_start else "setup")
            self._clock.start()
        self._measurement.counting.forget_state()  # of frozen parameters: a callback may have thawed some

    def begin_optimizer(self) -> None:
        """Gradients were clipped, if they are, and the optimizer steps next."""
        if self._clock.phase is not Phase.OPTIMIZER:
            self._clock.enter(Phase.OPTIMIZER)

    def end_optimizer(self) -> None:
        """The optimizer has stepped, or was told not to by a scaler of gradients."""
        self._clock.enter(Phase.OTHER)

    def end_step(self) -> None:
        """End an optimizer step."""
        if not self._in_step:
            return
        self._measurement.end_step()
        self._prometheus.end_step()
        self._in_step = False
        if not self._board.is_shown:
            with self._clock.during(Phase.REPORT):
                self._board.show(self._meter)

    def finish(self) -> None:
        """Take the brackets off, sum up the run over all ranks, and show the summary."""
        self._brackets.remove()
        if self._measurement.is_measuring:
            self._show(self._measurement.finish(self._circumstances))
        self._board.close()

    def break_off(self) -> None:
        """Take the brackets off; sum up and show what was measured, if no other ranks are needed for it."""
        self._brackets.remove()
        summary = self._measurement.break_off(self._circumstances)
        if summary is not None and summary.steps:
            self._show(summary)
        self._board.close()

    def _put_brackets(self) -> None:
        trainer, put = self._trainer, self._brackets.put
        put(trainer, "training_step", self._around_training_step)
        put(trainer, "get_batch_samples", self._around_fetch)
        put(trainer.accelerator, "clip_grad_norm_", self._before_clipping)
        put(trainer, "log", self._joining)
        for method in ("evaluate", "predict"):
            put(trainer, method, self._during(Phase.VALIDATION))
        for method in ("_save_checkpoint", "save_model"):
            put(trainer, method, self._during(Phase.CHECKPOINT))
        put(trainer, "_run_epoch", self._around_epoch)
        # Everything that runs between the start and the end of training, so that an exception is seen wherever it is.
        put(trainer.callback_handler, "on_epoch_begin", self._guarded)
        for method in ("evaluate", "_run_epoch", "_finalize_training"):
            put(trainer, method, self._guarded)
        if self._measurement.waits is not None:
            self._brackets.call_at_removal(self._measurement.waits.remove)

    def _guarded(self, method: Function) -> Function:
        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return method(*args, **kwargs)
            except BaseException:
                self.break_off()
                raise

        return call

    def _around_epoch(self, run_epoch: Function) -> Function:
        @functools.wraps(run_epoch)
        def call(*args: Any, **kwargs: Any) -> Any:
            self._clock.enter(Phase.DATA)  # it starts the loader, and its workers
            return run_epoch(*args, **kwargs)

        return call

    def _around_fetch(self, get_batch_samples: Function) -> Function:
        @functools.wraps(get_batch_samples)
        def call(*args: Any, **kwargs: Any) -> Any:
            self._clock.enter(Phase.DATA)
            batches = get_batch_samples(*args, **kwargs)
            self._clock.enter(Phase.OTHER)
            return batches

        return call

    def _before_clipping(self, clip: Function) -> Function:
        @functools.wraps(clip)
        def call(*args: Any, **kwargs: Any) -> Any:
            self.begin_optimizer()
            return clip(*args, **kwargs)

        return call

    def _during(self, phase: Phase) -> Callable[[Function], Function]:
        return lambda method: functools.wraps(method)(self._clock.during(phase)(method))

    def _around_training_step(self, training_step: Function) -> Function:
        @functools.wraps(training_step)
        def call(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            with self._micro_batch(inputs):
                return training_step(model, inputs, *args, **kwargs)

        return call

    @contextmanager
    def _micro_batch(self, inputs: Any) -> Iterator[None]:
        if not self._in_step:
            self._meter.begin_step()
            self._in_step = True
        with self._blocks.block(inputs):
            yield

    def _joining(self, log: Function) -> Function:
        """The Trainer's own log, which hands on to all integrations what it gets; its record of a loss gets ours."""

        @functools.wraps(log)
        def call(logs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            if "loss" in logs and not self._in_step:
                logs = {**logs, **self._values()}
            return log(logs, *args, **kwargs)

        return call

    def _values(self) -> dict[str, float]:
        values = self._measurement.take_values()
        self._prometheus.show(values)
        if values and not self._board.has_dashboard:
            with self._clock.during(Phase.REPORT):
                self._board.show_dashboard(values)
        return values

    def _circumstances(self) -> Circumstances:
        return circumstances_of(
            self._trainer,
            self._model,
            batch_size=self._meter.batches.size,
            processes=self._ranks.on_this_machine,
            loader=self._loader,
        )

    def _show(self, summary: Summary) -> None:
        self._take_summary(summary)
        if self._ranks.index == 0:
            show_summary(summary, self._arguments, self._board)
