"""Writes the dashboard, the card, HParams and the record of a run to its loggers and its directory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mfu_callback.board.card import card
from mfu_callback.board.card_html import card_html
from mfu_callback.board.event_writers import is_of_tensorboard
from mfu_callback.board.facts import FoundBatchSize, RunFacts
from mfu_callback.board.logger_cards import card_writers
from mfu_callback.board.record import record_of
from mfu_callback.meter.meter import RunMeter
from mfu_callback.meter.summary import Summary
from mfu_callback.report.summary_file import write_summary
from mfu_callback.tools.brackets import Brackets


class Board:
    """Everything that is written about one run besides its values: to the loggers that take it, and to one JSON file.

    Errors here never end a run; the first one is reported.

    Args:
        loggers: The loggers of the run; none on the ranks that write nothing, and if only the file is wanted.
        event_writers: Returns the writers of TensorBoard's event files among them, each with the prefix of its tags.
        facts_of: Collects the facts of the run.
        directories: Returns the run's directories, each of which gets the file.
        step: Returns the step that the card belongs to.
        warn_once: Warns with a message, once per subject.
        found: Returns the result of a search for the batch size that came before the run.
        at_end: Called when all is written.

    Attributes:
        is_shown: Whether the first step is over.
        has_dashboard: Whether the dashboard was written.
    """

    def __init__(
        self,
        loggers: Sequence[Any],
        event_writers: Callable[[], Iterable[tuple[Any, str]]],
        facts_of: Callable[[RunMeter], RunFacts],
        directories: Callable[[], Iterable[Path]],
        step: Callable[[], int],
        warn_once: Callable[[str, str], None],
        found: Callable[[], FoundBatchSize | None] = lambda: None,
        at_end: Iterable[Callable[[], None]] = (),
    ) -> None:
        self.is_shown = False
        self.has_dashboard = False
        self._facts: RunFacts | None = None
        self._loggers = loggers
        self._event_writers = event_writers
        self._facts_of = facts_of
        self._directories = directories
        self._step = step
        self._warn_once = warn_once
        self._found = found
        self._at_end = tuple(at_end)
        self._brackets = Brackets()
        self._writers: list[Any] = []
        if loggers:
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
        """Write the final figures at the end of the run.

        Args:
            summary: The figures.
        """
        self._try(lambda: self._write(summary))
        self._try(lambda: self._write_cards(summary, is_last=True))
        self._try(lambda: self._write_files(summary))

    def close(self) -> None:
        """Write everything that was held back, and release the loggers."""
        for writer in self._writers:
            self._try(writer.end)
        self._brackets.remove()
        for end in self._at_end if self._writers else ():
            self._try(end)
        self._writers = []

    def _open(self) -> None:
        """Watch the writers of event files, if TensorBoard is installed."""
        for writer, prefix in self._event_writers():
            if is_of_tensorboard(writer):
                from mfu_callback.board.run_writer import RunWriter

                self._writers.append(RunWriter(writer, prefix, self._brackets))

    def _show(self, meter: RunMeter) -> None:
        facts = self._facts = self._facts_of(meter)
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
                writer.write(text, record, self._step())

    def _write_cards(self, summary: Summary, *, is_last: bool = False) -> None:
        writers = card_writers(self._loggers, is_last=is_last)
        text = self._card(summary) if writers else None
        if text is not None:
            html = card_html(text)
            for write in writers:
                self._try(partial(write, html))

    def _write_files(self, summary: Summary) -> None:
        for directory in self._directories():
            self._try(partial(write_summary, self._record(summary), directory))

    def _card(self, summary: Summary) -> str | None:
        return None if self._facts is None else card(self._facts, summary, self._found())

    def _record(self, summary: Summary) -> dict[str, Any]:
        return record_of(self._facts, summary, self._found())

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
