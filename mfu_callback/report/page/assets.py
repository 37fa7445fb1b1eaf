"""The files that a browser loads: our own, and the script of the installed plotly."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

STATIC = Path(__file__).parent / "static"


def plotly_file() -> Path | None:
    """The script of the installed plotly; None if plotly is not installed."""
    package = find_spec("plotly")
    if package is None or not package.submodule_search_locations:
        return None
    file = Path(package.submodule_search_locations[0], "package_data", "plotly.min.js")
    return file if file.is_file() else None
