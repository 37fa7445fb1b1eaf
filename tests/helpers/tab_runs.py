"""The runs that the tests of the tab show, and the functions with which they read the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger

from gpt import GPTModule
from mfu_callback import BatchSizeFinder, MFUCallback
from scripts.pictures.browser import Browser
from tests.helpers.finder_models import MIB, TinyGPT
from tests.helpers.runs import PEAK, TINY, make_trainer, tiny_data

HOSTILE = "<img src=x onerror=window.top.hit=1>$x^2$&amp;..%2f%{y}"
CHARTS = ["mfu", "tokens", "waterfall", "last", "devices", "kernels", "modules", "finder", "roofline"]
# Those of a run on one device whose operators were not measured.
CHARTS_OF_ONE_DEVICE = [chart for chart in CHARTS if chart not in ("devices", "kernels")]
# Console messages of Chromium on a machine without a graphics card, and of TensorBoard's own code.
NOT_OURS = ("WebGL", "index.js?_file_hash=")


def train(directory: Path, name: str, **options: Any) -> None:
    logger = TensorBoardLogger(directory, name="", version=name)
    callback = MFUCallback(peak=PEAK, warmup_steps=1)
    make_trainer(callback, logger=logger, max_steps=20, **options).fit(GPTModule(TINY), datamodule=tiny_data())


def train_found(directory: Path, name: str, *, is_measured: bool = True) -> None:
    """Train a run whose batch size was found by a sweep; it has no MFUCallback if it is not measured."""
    finder = BatchSizeFinder(budget=60 * MIB, objective="throughput", max_size=8)
    logger = TensorBoardLogger(directory, name="", version=name)
    callbacks = [MFUCallback(peak=2 * PEAK, warmup_steps=1)] if is_measured else []
    make_trainer(finder, *callbacks, logger=logger).fit(TinyGPT())


def names(tab: Browser) -> list[str]:
    return tab.texts(".runs tbody td.name")


def operators(tab: Browser) -> list[str]:
    return tab.texts(".operators tbody td.name")


def traces(tab: Browser, chart: str) -> list[str]:
    """The names of the traces in a chart."""
    script = "return (document.querySelector(arguments[0]).data ?? []).map((t) => t.name ?? t.type)"
    return tab.run(script, f"#{chart} .plot")


def is_drawn(tab: Browser, chart: str) -> bool:
    """Whether a chart has drawn lines, areas, bars or points."""
    script = "return document.querySelectorAll(arguments[0]).length"
    return tab.run(script, f"#{chart} :is(path.js-line, .bars path, path.point, path.js-fill)") > 0


def our_errors(tab: Browser) -> list[str]:
    return [error for error in tab.errors() if not any(word in error for word in NOT_OURS)]


def click_run(tab: Browser, kind: str, name: str) -> None:
    """Click on the box ("show") or the button ("select") of a run."""
    script = 'document.querySelector(`[data-focus="${CSS.escape(arguments[0])}"]`).click()'
    tab.run(script, f"{kind} {name}")


def sorted_by(tab: Browser) -> list[str]:
    """The titles of the columns that are marked as sorted for screen readers."""
    return tab.texts('.runs th:is([aria-sort="ascending"], [aria-sort="descending"]) button')


def tokens(tab: Browser) -> list[float]:
    return [float(text.replace(",", "")) for text in tab.texts(".runs tbody td:nth-child(5)") if text != "\N{EN DASH}"]


def reload(tab: Browser) -> bool:
    """Press TensorBoard's reload button."""
    tab.run("window.parent.document.querySelector('.reload-button').click()")
    return True


def custom_scalars(window: Browser) -> dict[str, int]:
    """How many lines each chart of the custom scalars tab draws, by its title."""
    return window.run("""
        const found = {};
        const walk = (node) => {
          if (node.tagName === 'TF-CUSTOM-SCALAR-MULTI-LINE-CHART-CARD') {
            found[node._titleDisplayString] = Object.keys(node._nameToDataSeries ?? {}).length;
          }
          for (const child of [...(node.shadowRoot?.children ?? []), ...(node.children ?? [])]) walk(child);
        };
        walk(document.body);
        return found;
    """)
