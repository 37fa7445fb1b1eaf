"""The figures that MFUCallback keeps, also where they are made in processes that a strategy spawns."""

from __future__ import annotations

import base64
import pickle
from typing import TYPE_CHECKING, Any

from mfu_callback.lightning import private_names
from mfu_callback.lightning.mailbox import Mailbox
from mfu_callback.lightning.namespaces import Callback, rank_zero_warn
from mfu_callback.meter.evaluation import Evaluation
from mfu_callback.meter.summary import Summary

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


class KeptFigures(Callback):
    """Keeps the figures of what has ended.

    Where a strategy spawns processes (ddp_spawn, ddp_fork, ddp_notebook), process 0 of this machine hands its figures
    to the process that spawned it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._summary: Summary | None = None
        self._evaluations: dict[str, Evaluation] = {}
        self._mailbox = Mailbox()

    def __getstate__(self) -> dict[str, Any]:
        """State for copies: their mailbox is empty, so they get the figures themselves."""
        self._take()
        return dict(vars(self))

    @property
    def summary(self) -> Summary | None:
        """The figures of the latest fit; None before its end."""
        self._take()
        return self._summary

    @property
    def evaluations(self) -> dict[str, Evaluation]:
        """The figures of the latest loop by stage: "validate", "test", "predict"."""
        self._take()
        return self._evaluations

    def _keep_summary(self, trainer: Trainer, summary: Summary) -> None:
        self._take()
        self._summary = summary
        self._hand_over(trainer)

    def _keep_evaluation(self, trainer: Trainer, evaluation: Evaluation) -> None:
        self._take()
        self._evaluations = {**self._evaluations, evaluation.stage: evaluation}  # a copy of the callback keeps its own
        self._hand_over(trainer)

    def _take(self) -> None:
        """Take what a spawned process has handed over."""
        text = self._mailbox.take()
        if text is not None:  # written by a process of this run, for this user alone
            self._summary, self._evaluations = pickle.loads(base64.b64decode(text))

    def _hand_over(self, trainer: Any) -> None:
        if trainer.local_rank != 0 or not private_names.spawns_processes(trainer):
            return
        try:
            self._mailbox.put(base64.b64encode(pickle.dumps((self._summary, self._evaluations))).decode())
        except OSError as error:
            rank_zero_warn(
                f"MFUCallback cannot write to the temporary directory ({error}), so its summary will be missing in the"
                " process that started this one. Loggers and mfu_summary.json have the figures all the same. Set the"
                " environment variable TMPDIR to a directory that can be written to."
            )
