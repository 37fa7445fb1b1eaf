"""TensorBoard's tab "MFU": a plugin that reads only what TensorBoard has loaded from event files."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tensorboard import plugin_util
from tensorboard.backend import http_util
from tensorboard.plugins import base_plugin
from werkzeug import Request, Response

from mfu_callback.board.provider import ProvidedLogs
from mfu_callback.logs.names import PLUGIN_NAME
from mfu_callback.meter.tags import TAGS, WATERFALL
from mfu_callback.report.page.assets import STATIC, plotly_file
from mfu_callback.report.page.views import details_view, run_view, series_view, waterfall_view
from mfu_callback.report.parts import as_plain_data

_STATIC = Path(__file__).parent / "static"  # connects the page to TensorBoard
_KINDS = {".js": "text/javascript", ".css": "text/css"}
_CURVE_POINTS = 300  # per run: more than a chart of this width can show
_WATERFALL_POINTS = 1_000  # of the selected run
_PLOTLY_SECONDS = 24 * 3600  # how long a browser may cache it


class MFUPlugin(base_plugin.TBPlugin):  # type: ignore[misc]
    """The tab. All files that it serves are on this machine.

    Args:
        context: TensorBoard's context.
    """

    plugin_name = PLUGIN_NAME

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self._data_provider = context.data_provider
        self._health = _health(context.logdir)

    def get_plugin_apps(self) -> dict[str, Callable[..., Any]]:
        """The routes: JSON of the runs, and the page's own files."""
        files = {f"/{file.name}": _serving(file) for own in (STATIC, _STATIC) for file in own.iterdir()}
        data = {"/runs": self._runs, "/curves": self._curves, "/waterfall": self._waterfall, "/details": self._details}
        return files | {name: self._json(view) for name, view in data.items()} | {"/plotly.js": _serve_plotly}

    def is_active(self) -> bool:
        """Whether any run has logged our tags or a record."""
        return ProvidedLogs(self._data_provider, plugin_util.context({}), "").has_any()

    def frontend_metadata(self) -> Any:
        """The entry file of the page and the name of the tab."""
        return base_plugin.FrontendMetadata(es_module_path="/index.js", tab_name="MFU")

    def _json(self, view: Callable[[ProvidedLogs, Request], Any]) -> Callable[..., Any]:
        @Request.application
        def serve(request: Request) -> Response:
            context, experiment = plugin_util.context(request.environ), plugin_util.experiment_id(request.environ)
            return _respond(request, view(ProvidedLogs(self._data_provider, context, experiment), request))

        return serve

    def _runs(self, logs: ProvidedLogs, request: Request) -> dict[str, Any]:
        problems = [] if self._health is None else self._health.problems()
        return {"runs": [run_view(run) for run in logs.runs()], "problems": problems, "parts": as_plain_data()}

    def _curves(self, logs: ProvidedLogs, request: Request) -> dict[str, Any]:
        tag = request.args.get("tag", "")
        if tag not in {known.name for known in TAGS}:
            return {}
        read = logs.series([tag], points=_CURVE_POINTS)
        return {run: series_view(series[tag]) for run, series in read.items() if tag in series}

    def _waterfall(self, logs: ProvidedLogs, request: Request) -> dict[str, Any]:
        run = request.args.get("run", "")
        return waterfall_view(logs.series(WATERFALL.values(), run=run, points=_WATERFALL_POINTS).get(run, {}))

    def _details(self, logs: ProvidedLogs, request: Request) -> dict[str, Any]:
        return details_view(logs.run(request.args.get("run", "")))


def _health(logdir: str | None) -> Any:
    """The check of the event files; None if they are not on this machine or the reader is not installed."""
    if not logdir or not Path(logdir).is_dir() or find_spec("google_crc32c") is None:
        return None
    from mfu_callback.board.health import FileHealth

    return FileHealth(Path(logdir))


def _respond(request: Request, content: Any, kind: str = "application/json", **options: Any) -> Response:
    response: Response = http_util.Respond(request, content, kind, **options)
    return response


def _serving(file: Path) -> Callable[..., Any]:
    @Request.application
    def serve(request: Request) -> Response:
        return _respond(request, file.read_bytes(), _KINDS[file.suffix])

    return serve


@Request.application
def _serve_plotly(request: Request) -> Response:
    compressed = _plotly()
    if compressed is None:
        return _respond(request, "plotly is not installed", "text/plain", code=404)
    return _respond(request, compressed, "text/javascript", content_encoding="gzip", expires=_PLOTLY_SECONDS)


@cache
def _plotly() -> bytes | None:
    file = plotly_file()
    return None if file is None else gzip.compress(file.read_bytes(), compresslevel=6, mtime=0)
