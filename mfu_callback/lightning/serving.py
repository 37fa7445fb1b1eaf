"""Serves the values of a fit to Prometheus."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from mfu_callback.lightning.run_directory import name_and_version
from mfu_callback.meter.messages import Messages
from mfu_callback.meter.prometheus import PrometheusServer

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


def prometheus_of(trainer: Trainer, port: int | None, host: str, messages: Messages) -> PrometheusServer:
    """A server for a fit, not yet started; it serves nothing without a port, and only on global rank zero.

    Its gauges have the label ``run``, the first logger's name and version, so that the runs that one port has served
    can be told apart.

    Args:
        trainer: The Trainer, whose loggers know their run.
        port: The port; None serves nothing.
        host: The address to listen on.
        messages: Says where it serves, or why it does not.
    """
    port = port if trainer.is_global_zero else None
    return PrometheusServer(
        port,
        host=host,
        labels={} if port is None else _labels(trainer),
        warn=partial(messages.warn_once, "prometheus"),
        say=messages.inform,
    )


def _labels(trainer: Trainer) -> dict[str, str]:
    run = "/".join(filter(None, name_and_version(trainer.loggers[0]))) if trainer.loggers else ""
    return {"run": run} if run else {}
