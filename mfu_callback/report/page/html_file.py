"""Writes one HTML file with the runs, the charts of the tab, and the scripts that draw them."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mfu_callback.logs.run_log import RunLog, Series
from mfu_callback.meter.tags import CUMULATIVE, MFU, TOKENS_PER_SEC
from mfu_callback.report.page.assets import STATIC, plotly_file
from mfu_callback.report.page.views import details_view, run_view, series_view, waterfall_view
from mfu_callback.report.parts import as_plain_data

_POINTS = 1_000  # per curve: more than a chart can show
# Each needs those before it.
_SCRIPTS = ("format.js", "sortable.js", "table.js", "details.js", "charts.js", "devices.js", "page.js")
_START = """
const held = JSON.parse(document.getElementById('held').textContent);
const page = mount(document.body, {
  runs: async () => ({ runs: held.runs, problems: held.problems, notes: held.notes, parts: held.parts }),
  curves: async (tag) => held.curves[tag] ?? {},
  waterfall: async (run) => held.waterfalls[run],
  details: async (run) => held.details[run],
}, Promise.resolve());
const dark = window.matchMedia('(prefers-color-scheme: dark)');
const setTheme = () => page.theme(dark.matches ? 'dark' : 'light');
dark.addEventListener('change', setTheme);
setTheme();
page.reload();
"""
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline';\
 style-src 'unsafe-inline'; img-src data: blob:">
<title>{title}</title>
<style>{style}</style>
<script>{plotly}</script>
</head>
<body>
<script type="application/json" id="held">{data}</script>
<script type="module">{script}</script>
</body>
</html>
"""


def write_page(file: Path, runs: Sequence[RunLog], *, title: str, notes: Sequence[str] = ()) -> None:
    """Write the page.

    Args:
        file: The file.
        runs: The runs to show.
        title: Title of the page.
        notes: Further lines at the top.

    Raises:
        ModuleNotFoundError: If plotly is not installed.
        OSError: If the file cannot be written.
    """
    plotly = plotly_file()
    if plotly is None:
        raise ModuleNotFoundError("The page's charts need plotly: pip install plotly")
    page = _PAGE.format(
        title=html.escape(title),
        style=(STATIC / "style.css").read_text(encoding="utf-8"),
        plotly=plotly.read_text(encoding="utf-8").replace("</script", "<\\/script"),
        data=_as_text(_held(runs, notes)),
        script="\n".join([*map(_without_modules, _SCRIPTS), _START]),
    )
    file.write_text(page, encoding="utf-8")


def _held(runs: Sequence[RunLog], notes: Sequence[str]) -> dict[str, Any]:
    shown = [run for run in runs if run.has_values]
    return {
        "runs": [run_view(run) for run in shown],
        "problems": [f"{run.name}: {problem}" for run in runs for problem in run.problems],
        "notes": list(notes),
        "parts": as_plain_data(),
        "curves": {
            tag: {run.name: series_view(_thinned(run.scalars[tag])) for run in shown if tag in run.scalars}
            for tag in (MFU, TOKENS_PER_SEC, *sorted(CUMULATIVE))
        },
        "waterfalls": {
            run.name: waterfall_view({tag: _thinned(series) for tag, series in run.scalars.items()}) for run in shown
        },
        "details": {run.name: details_view(run) for run in shown},
    }


def _thinned(series: Series) -> Series:
    """At most as many points as a chart can show, evenly spaced, with the first and the last."""
    count = len(series.steps)
    if count <= _POINTS:
        return series
    kept = np.unique(np.linspace(0, count - 1, _POINTS).round().astype(int)).tolist()
    return Series(
        steps=[series.steps[index] for index in kept],
        wall_times=[series.wall_times[index] for index in kept] if series.wall_times else [],
        values=[series.values[index] for index in kept],
    )


def _as_text(data: Any) -> str:
    """JSON in which an HTML parser finds no tag."""
    return json.dumps(data, default=str).replace("<", "\\u003c")


def _without_modules(name: str) -> str:
    """A script without its imports and exports, to be joined with others."""
    text = (STATIC / name).read_text(encoding="utf-8")
    return re.sub(r"^export ", "", re.sub(r"^import .*\n", "", text, flags=re.MULTILINE), flags=re.MULTILINE)
