"""The runs that the tests of the tab show, and the functions with which they read the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter

from gpt import GPTModule
from mfu_callback import BatchSizeFinder, MFUCallback
from mfu_callback.board.run_writer import RunWriter
from mfu_callback.meter.tags import WATERFALL
from mfu_callback.tools.brackets import Brackets
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


def write_hostile_record(directory: Path) -> None:
    """Write a run whose record has hostile text in every field."""
    peak = {"flops_per_sec": PEAK, "name": HOSTILE, "source": HOSTILE, "dtype": HOSTILE}
    modules = [{"name": f"{HOSTILE}.{part}", "modules": 2, "flops": 100} for part in "ab"]
    run = {"model": HOSTILE, "precision": HOSTILE, "parameter_bytes": 4, "batch_flops": 10, "modules": modules}
    record = {"steps": 3, "mfu": 1e-9, "advice": HOSTILE, "peak": peak, "run": run}
    devices = several_devices(2, host=HOSTILE, phase=HOSTILE)
    operators = [operator_row(HOSTILE, 0.1, kind=HOSTILE, phase=HOSTILE)]
    write_record(directory, record | devices | {"operators": operators, "gpu": {"throttle_reasons": {HOSTILE: 1.0}}})


def write_record(directory: Path, record: dict[str, Any]) -> None:
    """Write a run with a record, and one point of its waterfall."""
    with SummaryWriter(str(directory)) as writer:
        for name in WATERFALL.values():
            writer.add_scalar(name, 1 / len(WATERFALL), 1)
        RunWriter(writer, "", Brackets()).write(None, record, 3)


def several_devices(count: int, *, host: str = "node", phase: str = "data") -> dict[str, Any]:
    """The fields of a record of several devices, of which rank 1 is slow: each step of 0.1 s waits 40 ms for it."""
    seconds = {"data": 0.01, "forward": 0.02, "backward": 0.02, "optimizer": 0.01, "other": 0.0}
    figures = [
        {
            **{"rank": rank, "host": host, "step_sec": 0.1},
            **{"phases_sec": seconds | ({"data": 0.05} if rank == 1 else {}), "waits_sec": 0.0 if rank == 1 else 0.04},
        }
        for rank in range(count)
    ]
    pace = {"rank": 1, "host": host, "phase": phase, "behind_sec": 0.04, "late_share": 1.0, "is_constant": True}
    return {"devices": figures, "pace": pace}


def operator_row(name: str, sec: float, *, kind: str = "matmul", phase: str = "forward") -> dict[str, Any]:
    """An operator of a record whose steps take a second."""
    return {"name": name, "kind": kind, "phase": phase, "calls": 2.0, "sec": sec, "share": sec} | {
        **{"flops": 1e9 if kind == "matmul" else None, "bytes": 1e6, "roofline": 0.5}
    }


def record_of_several(devices: int = 4, operators: int = 3) -> dict[str, Any]:
    """A record with all that a run on several devices with measured operators has."""
    shares = (0.3, 0.05, 0.2, 0.05, 0.02, 0.3, 0.05, 0.03)
    opened = {"matmuls": 0.05, "attention": 0.02, "memory": 0.08, "transfers": 0.01, "gaps": 0.04}
    kinds = ("matmul", "memory", "transfer")
    return several_devices(devices) | {
        **{"steps": 50, "mfu": 0.3, "step_time_sec": 0.1, "waterfall": dict(zip(WATERFALL, shares, strict=True))},
        **{
            "phases_sec": {"data": 0.03, "forward": 0.03, "backward": 0.04},
            "kernels": opened,
            "run": {"devices": devices},
        },
        "operators": [operator_row(f"aten::op{n}", 0.1 / (n + 1), kind=kinds[n % 3]) for n in range(operators)],
        "memory": {"resident_bytes": 2**30, "total_bytes": 2**34, "share": 0.0625, "retries": None},
    }


def train_found(directory: Path, name: str) -> None:
    """Train a run whose batch size was found by a sweep."""
    finder = BatchSizeFinder(budget=60 * MIB, objective="throughput", max_size=8)
    logger = TensorBoardLogger(directory, name="", version=name)
    make_trainer(finder, MFUCallback(peak=2 * PEAK, warmup_steps=1), logger=logger).fit(TinyGPT())


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
