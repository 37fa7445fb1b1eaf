"""Writes the dashboard, the card, HParams and the record of a Hugging Face Trainer's run."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from mfu_callback.board.card import card
from mfu_callback.board.facts import RunFacts
from mfu_callback.board.record import record_of
from mfu_callback.loops.trainer_facts import facts_of_run
from mfu_callback.meter.messages import Messages
from mfu_callback.meter.meter import RunMeter
from mfu_callback.meter.summary import Summary
from mfu_callback.report.end_of_fit import write_summary
from mfu_callback.tools.brackets import Brackets

_PREFIX = "train/"  # what transformers puts before the tags of training


class TrainerBoard:
    """Everything that is written about one run besides its values: to TensorBoard, and to one JSON file.

    ``mfu_summary.json`` is written to ``args.output_dir``, and beside the event file if TensorBoard is reported to.
    Errors here never end a run; the first one is reported.

    Args:
        trainer: The Trainer.
        module: The model.
        messages: Says what was not written.
        in_tensorboard: Whether to write to TensorBoard.

    Attributes:
        is_shown: Whether the first step is over.
        has_dashboard: Whether the dashboard was written.
    """

    def __init__(self, trainer: Any, module: nn.Module, messages: Messages, *, in_tensorboard: bool) -> None:
        self.is_shown = self.has_dashboard = False
        self._trainer = trainer
        self._module = module
        self._messages = messages
        self._in_tensorboard = in_tensorboard
        self._facts: RunFacts | None = None
        self._brackets = Brackets()
        self._summary_writers: list[Any] = []
        self._writers: list[Any] = []

    def open(self, *, is_first_rank: bool) -> None:
        """Find the writers of the Trainer's TensorBoard callback, which stands before ours and has made them."""
        if not is_first_rank:
            self.is_shown = self.has_dashboard = True
        elif self._in_tensorboard:
            self._try(self._open)

    def show(self, meter: RunMeter) -> None:
        """Write the facts of the run after its first step.

        Args:
            meter: The meter of the run.
        """
        self.is_shown = True
        self._try(lambda: self._show(meter))

    def show_dashboard(self, tags: Collection[str]) -> None:
        """Write the dashboard once the first values are logged.

        Args:
            tags: The logged tags, as they are without the prefix.
        """
        self.has_dashboard = True
        for writer in self._writers:
            self._try(partial(writer.write_dashboard, tags))

    def end(self, summary: Summary) -> None:
        """Write the final figures.

        Args:
            summary: The figures.
        """
        self._try(lambda: self._write(summary))
        record = record_of(self._facts, summary, None)
        for directory in (self._trainer.args.output_dir, *(one.log_dir for one in self._summary_writers)):
            self._try(partial(write_summary, record, Path(directory)))

    def close(self) -> None:
        """Write what was held back, and let go of TensorBoard."""
        for writer in self._writers:
            self._try(writer.end)
        self._brackets.remove()
        for writer in self._summary_writers:
            self._try(writer.close)  # the Trainer's callback has closed it, and what came since opened another file
        self._writers, self._summary_writers = [], []

    def _open(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        from mfu_callback.board.run_writer import RunWriter

        found = [getattr(one, "tb_writer", None) for one in self._trainer.callback_handler.callbacks]
        self._summary_writers = [one for one in found if isinstance(one, SummaryWriter)]
        self._writers = [RunWriter(one, _PREFIX, self._brackets) for one in self._summary_writers]

    def _show(self, meter: RunMeter) -> None:
        self._facts = facts_of_run(self._trainer, self._module, meter)
        for writer in self._writers:
            writer.complete_hparams(self._facts)
        self._write(meter.summary())

    def _write(self, summary: Summary) -> None:
        record = record_of(self._facts, summary, None)
        text = None if self._facts is None else card(self._facts, summary, None)
        for writer in self._writers:
            writer.write(text, record, self._trainer.state.global_step)

    def _try(self, write: Callable[[], Any]) -> None:
        try:
            write()
        except Exception as error:  # a full disk or another version of TensorBoard must not end a run
            self._messages.warn_once(
                "board",
                "The dashboard, the card, HParams or the record of the run was not written"
                f" ({type(error).__name__}: {error}). The values are still logged. Pass board=False to write only them"
                " to TensorBoard.",
            )
