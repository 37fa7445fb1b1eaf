"""Writes into the event file of a run, next to what the run's logger and its user write."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import Any

from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR, Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING

from mfu_callback.board.dashboard import has_layout, is_layout, layout
from mfu_callback.board.facts import RunFacts
from mfu_callback.board.hparams import hparams_of_run, is_hparams, with_facts
from mfu_callback.logs.names import CARD_TAG, PLUGIN_NAME, RECORD_TAG
from mfu_callback.tools.brackets import Brackets, Function


class RunWriter:
    """Writes the card, the record, HParams and the layout of a run, and never replaces the user's own.

    TensorBoard uses the first HParams of a run and ignores later ones. So the user's HParams are held back until the
    facts are known, which is after the first step, and are then written together with them. Of several layouts
    TensorBoard uses the last one: ours is not written if the run already has one.

    Args:
        writer: The logger's `SummaryWriter`.
        prefix: Prefix of the logger's tags.
        brackets: Removes the bracket around the writer at the end of fit.
    """

    def __init__(self, writer: Any, prefix: str, brackets: Brackets) -> None:
        self._writer = writer
        self._prefix = prefix
        self._held: list[Callable[[], None]] = []
        self._facts: RunFacts | None = None
        self._has_hparams = False
        writer.flush()
        self._has_layout = has_layout(writer.log_dir)
        brackets.put(writer._get_file_writer(), "add_summary", self._watching)

    def complete_hparams(self, facts: RunFacts) -> None:
        """Write the HParams that were held back, together with the facts."""
        self._facts = facts
        self._release()

    def write_dashboard(self, tags: Collection[str]) -> None:
        """Write the layout of the custom scalars tab, unless the run has one."""
        if not self._has_layout:
            self._writer.add_custom_scalars(layout(tags))

    def write(self, card: str | None, record: dict[str, Any], step: int) -> None:
        """Write the card and the record.

        Args:
            card: The card as Markdown; None writes no card.
            record: The record as plain data.
            step: The Trainer's global step.
        """
        if card is not None:
            self._writer.add_text(CARD_TAG, card, step)
        write_record(self._writer, record, step)
        self._writer.flush()

    def end(self) -> None:
        """Write what is still held back at the end of fit, and our own HParams if the user logged none."""
        self._release()
        if self._facts is not None and not self._has_hparams:
            for summary in hparams_of_run(self._facts, self._prefix):
                self._writer._get_file_writer().add_summary(summary)

    def _release(self) -> None:
        held, self._held = self._held, []
        for write in held:
            write()

    def _watching(self, add_summary: Function) -> Function:
        def call(summary: Any, *args: Any, **kwargs: Any) -> None:
            self._has_layout = self._has_layout or is_layout(summary)
            if not is_hparams(summary):
                add_summary(summary, *args, **kwargs)
                return
            self._has_hparams = True
            self._held.append(lambda: add_summary(self._completed(summary), *args, **kwargs))
            if self._facts is not None:
                self._release()

        return call

    def _completed(self, summary: Any) -> Any:
        return summary if self._facts is None else with_facts(summary, self._facts, self._prefix)


def write_record(writer: Any, record: dict[str, Any], step: int) -> None:
    """Write the record, which TensorBoard keeps for the tab alone.

    Args:
        writer: A `SummaryWriter`.
        record: The record as plain data.
        step: The Trainer's global step.
    """
    writer._get_file_writer().add_summary(_tensor(record), step)


def _tensor(record: dict[str, Any]) -> Any:
    """The record as a summary of the tab's plugin."""
    text = json.dumps(record, default=str).encode()
    plugin = SummaryMetadata.PluginData(plugin_name=PLUGIN_NAME)
    value = Summary.Value(
        tag=RECORD_TAG,
        metadata=SummaryMetadata(plugin_data=plugin, data_class=DATA_CLASS_TENSOR),
        tensor=TensorProto(dtype=DT_STRING, string_val=[text]),
    )
    return Summary(value=[value])
