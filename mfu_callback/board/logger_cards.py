"""Writes the card to loggers other than TensorBoard's, to each in its own way."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

_NAME = "mfu_card"
_WANDB_KEY = "mfu_callback/card"  # the part before the slash is the section of the workspace


def _to_wandb(logger: Any, html: str) -> None:
    """As a panel. It joins the next row of the run's history, so that it adds no step of its own."""
    import wandb

    logger.experiment.log({_WANDB_KEY: wandb.Html(html)}, commit=False)


def _to_mlflow(logger: Any, html: str) -> None:
    """As an artifact, which the later card replaces."""
    logger.experiment.log_text(logger.run_id, html, f"{_NAME}.html")


def _to_comet(logger: Any, html: str) -> None:
    """In the tab HTML, which shows all that was ever written to it."""
    logger.experiment.log_html(html)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggerCard:
    """How one kind of logger takes the card.

    Attributes:
        logger: The name of the logger's class in Lightning; classes derived from it take it too.
        write: Writes a page of HTML to a logger.
        replaces: Whether a second card takes the place of the first. Where it does not, only the last is written.
    """

    logger: str
    write: Callable[[Any, str], None]
    replaces: bool = True

    def is_for(self, logger: object) -> bool:
        """Whether a logger is of this kind, by the name of its class: Lightning is installed under two names."""
        return any(
            kind.__name__ == self.logger and kind.__module__.split(".")[0] in ("lightning", "pytorch_lightning")
            for kind in type(logger).__mro__
        )


LOGGER_CARDS = (
    LoggerCard(logger="WandbLogger", write=_to_wandb),
    LoggerCard(logger="MLFlowLogger", write=_to_mlflow),
    LoggerCard(logger="CometLogger", write=_to_comet, replaces=False),
)


def takes_card(logger: object) -> bool:
    """Whether a logger is of a kind that takes the card.

    Args:
        logger: Any logger.
    """
    return any(row.is_for(logger) for row in LOGGER_CARDS)


def card_writers(loggers: Iterable[object], *, is_last: bool) -> list[Callable[[str], None]]:
    """Functions that write a page of HTML, one for each logger that takes the card now.

    Args:
        loggers: The Trainer's loggers.
        is_last: Whether this is the last card of the run.
    """
    return [
        partial(row.write, logger)
        for logger in loggers
        for row in LOGGER_CARDS
        if row.is_for(logger) and (row.replaces or is_last)
    ]
