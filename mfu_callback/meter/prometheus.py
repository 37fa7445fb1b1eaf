"""Serves the latest values of a run to Prometheus, for any training loop."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from mfu_callback.meter.tags import TAGS

LAST_STEP = "mfu_last_step_timestamp_seconds"
LOCALHOST = "127.0.0.1"
LAST_PORT = 65535

_WHAT = {tag.name: f"{tag.chart}{f': {tag.part}' if tag.part else ''}. Unit: {tag.unit}." for tag in TAGS}
_FRACTIONS = frozenset(tag.name for tag in TAGS if tag.unit.startswith("fraction"))


def gauge_name(tag: str) -> str:
    """The name of a tag's gauge: the tag's own, with its unit at the end.

    Args:
        tag: A tag (`mfu_callback.meter.tags`).

    Example:
        >>> gauge_name("throughput/tokens_per_sec"), gauge_name("throughput/mfu")
        ('mfu_throughput_tokens_per_sec', 'mfu_throughput_mfu_ratio')
    """
    return f"mfu_{tag.replace('/', '_')}{'_ratio' if tag in _FRACTIONS else ''}"


class PrometheusServer:
    """Serves a run's latest values at ``http://host:port/metrics``, from a registry of its own.

    Nothing is computed until somebody scrapes: a step costs one reading of the clock. Nothing here ends a run: what
    prevents the serving is reported.

    Args:
        port: The port; 0 takes any free one. None serves nothing.
        host: The address to listen on.
        labels: The labels of every gauge, by name.
        warn: Warns with a message.
        say: Writes a message to the log.
    """

    def __init__(
        self,
        port: int | None,
        *,
        host: str = LOCALHOST,
        labels: Mapping[str, str] | None = None,
        warn: Callable[[str], None],
        say: Callable[[str], None],
    ) -> None:
        self._port = port
        self._host = host
        self._labels = dict(labels or {})
        self._warn = warn
        self._say = say
        self._values: Mapping[str, float] = {}
        self._last_step: float | None = None
        self._server: Any = None
        self._thread: Any = None

    def start(self) -> None:
        """Start to serve, if a port was given."""
        if self._port is None or self._server is not None:
            return
        try:
            from prometheus_client import CollectorRegistry, start_http_server
        except ImportError:
            self._warn_of("prometheus_client is not installed", "Run: pip install prometheus-client")
            return
        registry = CollectorRegistry()
        registry.register(self)  # type: ignore[arg-type, unused-ignore]
        try:
            self._server, self._thread = start_http_server(self._port, self._host, registry)
        except Exception as error:  # taken, forbidden, or no address of this machine
            self._warn_of(
                f"{self._host}:{self._port} cannot be listened on ({type(error).__name__}: {error})",
                "Pass prometheus_port=0 for any free port, or an address of this machine as prometheus_host=.",
            )
            return
        host = f"[{self._host}]" if ":" in self._host else self._host
        self._say(f"the values are served to Prometheus at http://{host}:{self._server.server_port}/metrics.")

    def show(self, values: Mapping[str, float]) -> None:
        """Serve these values from now on.

        Args:
            values: The values by tag.
        """
        self._values = dict(values)

    def end_step(self) -> None:
        """Take the time as that of the last step."""
        self._last_step = time.time()

    def stop(self) -> None:
        """Close the port and end the thread."""
        server, self._server = self._server, None
        if server is None:
            return
        if self._thread.is_alive():  # a forked process has the server without its thread
            server.shutdown()
        # A worker that was forked meanwhile holds the same socket: closing it here alone would leave the port taken.
        with suppress(OSError):
            server.socket.shutdown(socket.SHUT_RDWR)
        server.server_close()
        self._thread.join()

    def collect(self) -> Iterator[Any]:
        """The gauges as they are now; the registry calls this when it is scraped."""
        values, last_step = self._values, self._last_step
        for tag, value in values.items():
            yield self._gauge(gauge_name(tag), _WHAT.get(tag, tag), value)
        if last_step is not None:
            yield self._gauge(LAST_STEP, "When the last optimizer step ended, in seconds since 1970.", last_step)

    def _gauge(self, name: str, what: str, value: float) -> Any:
        from prometheus_client.core import GaugeMetricFamily

        gauge = GaugeMetricFamily(name, what, labels=list(self._labels))
        gauge.add_metric(list(self._labels.values()), value)
        return gauge

    def _warn_of(self, fact: str, remedy: str) -> None:
        self._warn(f"{fact}, so Prometheus gets no values of this run. {remedy}")
