"""The tab's plugin on a directory, and its answers; knows neither torch nor Lightning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.base_plugin import TBContext
from werkzeug.test import Client

from mfu_callback.board.plugin import MFUPlugin


def plugin_on(directory: Path) -> MFUPlugin:
    """The plugin in a TensorBoard that has loaded a directory."""
    runs = EventMultiplexer(tensor_size_guidance={"scalars": 1000}).AddRunsFromDirectory(str(directory))
    runs.Reload()
    return MFUPlugin(TBContext(logdir=str(directory), data_provider=MultiplexerDataProvider(runs, str(directory))))


def get(plugin: MFUPlugin, route: str, **query: str) -> Any:
    answer = Client(plugin.get_plugin_apps()[route]).get("/", query_string=query)
    assert answer.status_code == 200
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    return json.loads(answer.data)
