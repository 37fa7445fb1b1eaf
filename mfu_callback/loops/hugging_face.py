"""MFUTrainerCallback, the public callback for the Trainer of transformers."""

from __future__ import annotations

import sys
import warnings
from types import FrameType
from typing import Any

from transformers import Trainer, TrainerCallback

from mfu_callback.loops.trainer_run import TrainerRun, missing_methods
from mfu_callback.meter.arguments import Arguments
from mfu_callback.meter.summary import Summary
from mfu_callback.tools.options import Option, instance_of, one_of

_TRAINER = Option(
    "must be a transformers.Trainer; or None, which finds it.", one_of(None), instance_of(Trainer), error=TypeError
)


class MFUTrainerCallback(TrainerCallback):
    """Logs tokens/sec, MFU and where the rest of the machine went, for any model that Hugging Face's Trainer trains.

    Measures what `MFUCallback` measures under Lightning's Trainer. The values join the record of the loss, which the
    Trainer logs each ``logging_steps``, and so reach ``log_history`` and everything in ``report_to``. Evaluation and
    the writing of checkpoints are no training time. The summary is printed at the end, and written to
    ``mfu_summary.json`` in ``args.output_dir``.

    A Trainer does not hand itself to its callbacks. It is found where it calls ``on_train_begin``: in the innermost
    running method whose object is a Trainer. While it trains, a few of its methods are wrapped on this one object. They
    are unwrapped at the end of training, and by an exception.

    Needs transformers 5.3 or later.

    Args:
        trainer: The Trainer, where it cannot be found. Otherwise None.
        arguments: The keywords of `MFUCallback`, which describes them.

    Attributes:
        summary: The figures of the last training; None before its end.

    Raises:
        ValueError: If an argument has a value that is not allowed.
        TypeError: If an argument is not known, or ``trainer`` is no Trainer.

    Example:
        >>> trainer = Trainer(model, callbacks=[MFUTrainerCallback()])  # doctest: +SKIP
    """

    def __init__(self, *, trainer: Trainer | None = None, **arguments: Any) -> None:
        self.summary: Summary | None = None
        self._arguments = Arguments.of("MFUTrainerCallback", arguments)
        self._trainer = _TRAINER.checked("trainer", trainer)
        self._run: TrainerRun | None = None

    def __getstate__(self) -> dict[str, Any]:
        """State for copies: the arguments and the summary, without a run in progress and its Trainer."""
        return {**vars(self), "_run": None, "_trainer": None}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Training begins."""
        if self._run is not None:  # a training that ended without a word
            self._run.break_off()
        self._run = None
        trainer = self._trainer or _running_trainer(sys._getframe())
        if (problem := _problem_of(trainer)) is not None:
            if state.is_world_process_zero:
                warnings.warn(f"MFUTrainerCallback: {problem}", stacklevel=2)
            return
        self._run = TrainerRun(trainer, self._arguments, kwargs.get("train_dataloader"), self._take_summary)
        self._run.start()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """An epoch begins."""
        if self._run is not None:
            self._run.begin_epoch()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The optimizer step begins."""
        if self._run is not None:
            self._run.begin_optimizer()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The optimizer step is over."""
        if self._run is not None:
            self._run.end_optimizer()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A step is over, with all of its micro-batches."""
        if self._run is not None:
            self._run.end_step()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Training is over."""
        run, self._run = self._run, None
        if run is not None:
            run.finish()

    def _take_summary(self, summary: Summary) -> None:
        self.summary = summary


def _running_trainer(frame: FrameType | None) -> Trainer | None:
    """The Trainer of the innermost running method that has one as its first argument."""
    while frame is not None:
        code = frame.f_code
        first = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
        if isinstance(first, Trainer):
            return first
        frame = frame.f_back
    return None


def _problem_of(trainer: Trainer | None) -> str | None:
    """Why a run cannot be measured, and what to do; None if it can."""
    if trainer is None:
        return (
            "the Trainer that calls this callback was not found, so nothing is measured. Training goes on. Hand it"
            " over: trainer.add_callback(MFUTrainerCallback(trainer=trainer))."
        )
    if missing := missing_methods(trainer):
        return (
            f"this Trainer has no {', '.join(missing)}, so nothing is measured. Training goes on. Use transformers 5.3"
            " or later."
        )
    if trainer.args.n_gpu > 1:
        return (
            f"this process trains on {trainer.args.n_gpu} GPUs in threads (nn.DataParallel), which cannot be told"
            " apart, so nothing is measured. Training goes on. Start one process for each GPU: torchrun"
            f" --nproc-per-node={trainer.args.n_gpu}."
        )
    return None
