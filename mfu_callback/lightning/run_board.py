"""Writes the dashboard, the card, HParams and the record of a run to its loggers and its directory."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import TYPE_CHECKING, Any

from mfu_callback.board.card import card
from mfu_callback.board.card_html import card_html
from mfu_callback.board.facts import RunFacts
from mfu_callback.board.record import record_of
from mfu_callback.board.run_facts import facts_of
from mfu_callback.lightning import private_names
from mfu_callback.lightning.found_batch_size import found_batch_size
from mfu_callback.board.logger_cards import card_writers
from mfu_callback.lightning.namespaces import distribution_of
from mfu_callback.lightning.run_directory import run_directory
from mfu_callback.meter.meter import RunMeter
from mfu_callback.meter.summary import Summary
from mfu_callback.report.summary_file import write_summary
from mfu_callback.tools.brackets import Brackets

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


class Board:
    """Everything that is written about one fit besides its values: to the loggers that take it, and to one JSON file.

    Errors here never end a run; the first one is reported.

    Args:
        trainer: A Trainer that is about to fit.
        pl_module: The model.
        warn_once: Warns with a message, once per subject.
        in_loggers: Whether to write to loggers.

    Attributes:
        is_shown: Whether the first step is over.
        has_dashboard: Whether the dashboard was written.
    """

    def __init__(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        warn_once: Callable[[str, str], None],
        *,
        in_loggers: bool,
    ) -> None:
        self.is_shown = False
        self._facts: RunFacts | None = None
        self.has_dashboard = False
        self._trainer = trainer
        self._pl_module = pl_module
        self._warn_once = warn_once
        self._brackets = Brackets()
        self._writers: list[Any] = []
        self._in_loggers = in_loggers and trainer.is_global_zero
        if self._in_loggers:
            self._try(self._open)

    def show(self, meter: RunMeter) -> None:
        """Write the facts of the run after its first step.

        Args:
            meter: The meter of the run.
        """
        self.is_shown = True
        self._try(lambda: self._show(meter))
        self._try(lambda: self._write_cards(meter.summary()))

    def show_dashboard(self, tags: Collection[str]) -> None:
        """Write the dashboard once the first values are logged.

        Args:
            tags: The logged tags.
        """
        self.has_dashboard = True
        self._try(lambda: self._show_dashboard(tags))

    def end(self, summary: Summary) -> None:
        """Write the final figures at the end of fit.

        Args:
            summary: The figures.
        """
        self._try(lambda: self._write(summary))
        self._try(lambda: self._write_cards(summary, is_last=True))
        self._try(lambda: write_summary(self._record(summary), run_directory(self._trainer)))

    def close(self) -> None:
        """Write everything that was held back, and release the loggers."""
        for writer in self._writers:
            self._try(writer.end)
        self._brackets.remove()
        self._writers = []

    def _open(self) -> None:
        """Watch the writers of the TensorBoard loggers, if TensorBoard is installed; tensorboardX is not enough."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        from mfu_callback.board.run_writer import RunWriter

        for logger in private_names.tensorboard_loggers(self._trainer):
            if isinstance(logger.experiment, SummaryWriter):
                prefix = private_names.logger_prefix(logger)
                self._writers.append(RunWriter(logger.experiment, prefix, self._brackets))

    def _show(self, meter: RunMeter) -> None:
        trainer = self._trainer
        facts = facts_of(
            self._pl_module,
            meter,
            device=trainer.strategy.root_device,
            devices=trainer.world_size,
            precision=str(trainer.precision),
            strategy=type(trainer.strategy).__name__,
            accumulate_grad_batches=trainer.accumulate_grad_batches,
            loop=distribution_of(trainer),
        )
        self._facts = facts
        for writer in self._writers:
            writer.complete_hparams(facts)
        self._write(meter.summary())

    def _show_dashboard(self, tags: Collection[str]) -> None:
        for writer in self._writers:
            writer.write_dashboard(tags)

    def _write(self, summary: Summary) -> None:
        if self._writers:
            text, record = self._card(summary), self._record(summary)
            for writer in self._writers:
                writer.write(text, record, self._trainer.global_step)

    def _write_cards(self, summary: Summary, *, is_last: bool = False) -> None:
        writers = card_writers(self._trainer.loggers, is_last=is_last) if self._in_loggers else []
        text = self._card(summary) if writers else None
        if text is not None:
            html = card_html(text)
            for write in writers:
                self._try(partial(write, html))

    def _card(self, summary: Summary) -> str | None:
        return None if self._facts is None else card(self._facts, summary, found_batch_size(self._trainer))

    def _record(self, summary: Summary) -> dict[str, Any]:
        return record_of(self._facts, summary, found_batch_size(self._trainer))

    def _try(self, write: Callable[[], Any]) -> None:
        try:
            write()
        except Exception as error:  # a full disk or another version of TensorBoard must not end a run
            self._warn_once(
                "board",
                "The dashboard, the card, HParams or the record of the run was not written"
                f" ({type(error).__name__}: {error}). The values are still logged. Pass board=False to write only them"
                " to the loggers.",
            )
