"""Serves the values of a run to Prometheus."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from mfu_callback.board.run_directory import name_and_version
from mfu_callback.meter.arguments import Arguments
from mfu_callback.meter.messages import Messages
from mfu_callback.meter.prometheus import PrometheusServer


def prometheus_of(
    loggers: Sequence[Any], arguments: Arguments, messages: Messages, *, is_first: bool
) -> PrometheusServer:
    """A server for a run, not yet started; it serves nothing without a port, and only on the first rank.

    Its gauges have the label ``run``, the first logger's name and version, so that the runs that one port has served
    can be told apart.

    Args:
        loggers: The loggers, which know their run.
        arguments: With the port and the address.
        messages: Says where it serves, or why it does not.
        is_first: Whether this is the first rank.
    """
    port = arguments.prometheus_port if is_first else None
    return PrometheusServer(
        port,
        host=arguments.prometheus_host,
        labels={} if port is None else _labels(loggers),
        warn=partial(messages.warn_once, "prometheus"),
        say=messages.inform,
    )


def _labels(loggers: Sequence[Any]) -> dict[str, str]:
    named = [logger for logger in loggers if hasattr(logger, "name") and hasattr(logger, "version")]
    run = "/".join(filter(None, name_and_version(named[0]))) if named else ""
    return {"run": run} if run else {}
