"""Writes the dashboard, the card, HParams and the record of a run to TensorBoard and the log directory."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from mfu_callback.board.card import card
from mfu_callback.board.facts import RunFacts
from mfu_callback.board.record import record_of
from mfu_callback.board.run_facts import facts_of
from mfu_callback.lightning import private_names
from mfu_callback.lightning.found_batch_size import found_batch_size
from mfu_callback.lightning.namespaces import distribution_of
from mfu_callback.meter.meter import RunMeter
from mfu_callback.meter.summary import Summary
from mfu_callback.report.end_of_fit import write_summary
from mfu_callback.tools.brackets import Brackets

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


class Board:
    """Everything that is written about one fit besides its values: to each TensorBoard logger, and to one JSON file.

    Errors here never end a run; the first one is reported.

    Args:
        trainer: A Trainer that is about to fit.
        pl_module: The model.
        warn_once: Warns with a message, once per subject.
        in_tensorboard: Whether to write to TensorBoard loggers.

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
        in_tensorboard: bool,
    ) -> None:
        self.is_shown = False
        self._facts: RunFacts | None = None
        self.has_dashboard = False
        self._trainer = trainer
        self._pl_module = pl_module
        self._warn_once = warn_once
        self._brackets = Brackets()
        self._writers: list[Any] = []
        if in_tensorboard and trainer.is_global_zero:
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
        self._try(lambda: write_summary(self._record(summary), private_names.log_directory(self._trainer)))

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
            facts, record = self._facts, self._record(summary)
            text = None if facts is None else card(facts, summary, found_batch_size(self._trainer))
            for writer in self._writers:
                writer.write(text, record, self._trainer.global_step)

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
                " to TensorBoard.",
            )
