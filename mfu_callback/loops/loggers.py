"""The loggers of a loop: those of Lightning and Fabric, and TensorBoard's SummaryWriter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any


def known_loggers(loggers: Iterable[Any]) -> tuple[Any, ...]:
    """The loggers, each of a known kind.

    Args:
        loggers: Objects with ``log_metrics(metrics, step)`` or with ``add_scalar(tag, value, step)``.

    Raises:
        TypeError: If one has neither, or they are no sequence.
    """
    try:
        loggers = tuple(loggers)
    except TypeError:
        raise TypeError(f"loggers={loggers!r} must be a sequence of loggers: loggers=[logger].") from None
    for logger in loggers:
        if not (hasattr(logger, "log_metrics") or hasattr(logger, "add_scalar")):
            raise TypeError(
                f"loggers= has a {type(logger).__name__}, with neither log_metrics() nor add_scalar(). Pass loggers"
                " of Lightning or Fabric, or a torch.utils.tensorboard.SummaryWriter; or log meter.values() yourself."
            )
    return loggers


def log_values(loggers: Sequence[Any], values: Mapping[str, float], step: int) -> None:
    """Send values to each logger.

    Args:
        loggers: The loggers (`known_loggers`).
        values: The values by tag.
        step: The step that they belong to.
    """
    for logger in loggers:
        if hasattr(logger, "log_metrics"):
            logger.log_metrics(metrics=dict(values), step=step)
        else:
            for tag, value in values.items():
                logger.add_scalar(tag, value, step)


def event_writers(loggers: Sequence[Any]) -> Iterator[tuple[Any, str]]:
    """The writers of TensorBoard's event files among the loggers, each with the prefix of its tags.

    Args:
        loggers: The loggers (`known_loggers`).
    """
    for logger in loggers:
        if hasattr(logger, "add_custom_scalars"):
            yield logger, ""
        elif any(kind.__name__ == "TensorBoardLogger" for kind in type(logger).__mro__):
            prefix = getattr(logger, "_prefix", "")
            yield logger.experiment, f"{prefix}{logger.LOGGER_JOIN_CHAR}" if prefix else ""
