"""Keeps a logger that does not take our values from ending the run, which without them would go on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mfu_callback.tools.brackets import Brackets, Function

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


class Refusals:
    """Watches the loggers of a Trainer while values of ours are sent to them.

    What a logger raises may be raised because of our values: it is asked once more, without them, and what it raises
    then is the user's. A logger that takes only the user's values is sent no more of ours.

    Args:
        trainer: The Trainer.
        warn_once: Warns with a message, once per subject.
    """

    def __init__(self, trainer: Trainer, warn_once: Callable[[str, str], None]) -> None:
        self._trainer = trainer
        self._warn_once = warn_once
        self._refusing: set[int] = set()  # the ids of loggers, which the Trainer keeps

    @contextmanager
    def watched(self, ours: Container[str], *, alone: bool) -> Iterator[None]:
        """A context in which the Trainer sends values to its loggers.

        Args:
            ours: The names of our values.
            alone: Whether there are no others, so that without us nothing would be sent.
        """
        brackets = Brackets()
        for logger in self._trainer.loggers:
            brackets.put(logger, "log_metrics", functools.partial(self._logging, id(logger), ours, alone))
            if alone:
                brackets.put(logger, "save", functools.partial(self._saving, id(logger)))
        try:
            yield
        finally:
            brackets.remove()

    def _logging(self, logger: int, ours: Container[str], alone: bool, log: Function) -> Function:
        @functools.wraps(log)
        def call(metrics: dict[str, Any], step: int | None = None) -> None:
            if logger not in self._refusing:
                try:
                    log(metrics=metrics, step=step)
                    return
                except Exception as error:
                    refusal = error
            if not alone:
                log(metrics={name: value for name, value in metrics.items() if name not in ours}, step=step)
            if logger not in self._refusing:
                self._refuse(logger, refusal)

        return call

    def _saving(self, logger: int, save: Function) -> Function:
        @functools.wraps(save)
        def call() -> None:
            if logger in self._refusing:
                return
            try:
                save()
            except Exception as error:
                self._refuse(logger, error)

        return call

    def _refuse(self, logger: int, error: Exception) -> None:
        self._refusing.add(logger)
        kind = next(type(one).__name__ for one in self._trainer.loggers if id(one) == logger)
        self._warn_once(
            f"refusal of {logger}",
            f"{kind} did not take the values of MFUCallback ({type(error).__name__}: {error}), so it gets no more of"
            " them. Training goes on, and the figures are in callback_metrics and in the summary. Repair what the"
            " logger writes to.",
        )
