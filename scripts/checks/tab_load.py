"""Measures how long the tab "MFU" takes to open, and how much memory the browser uses, with many runs and points.

Writes event files as a logger would, waits until TensorBoard has loaded them, and opens the tab in headless Chromium.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR, Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.summary.writer.record_writer import RecordWriter

from mfu_callback.logs.names import PLUGIN_NAME, RECORD_TAG
from mfu_callback.meter.tags import MFU, STEP_TIME_SEC, TOKENS_PER_SEC, WATERFALL
from scripts.pictures.browser import IS_INSTALLED, Browser, chromium, tensorboard

_TAGS = (MFU, TOKENS_PER_SEC, STEP_TIME_SEC, "throughput/device/tflops_per_sec", *WATERFALL.values())
_CHARTS = ("mfu", "tokens", "waterfall", "last", "modules", "roofline")
_PATIENCE_SEC = 600


def main() -> int:
    """Run the measurement and return the exit status: 1 if a limit is exceeded."""
    options = make_parser().parse_args()
    if not IS_INSTALLED:
        print("scripts/checks/tab_load.py needs chromium and its driver: apt-get install chromium chromium-driver")
        return 2
    with TemporaryDirectory() as directory:
        logdir = Path(directory) / "logs"
        written = write_runs(logdir, runs=options.runs, points=options.points)
        with tensorboard(logdir) as address:
            loaded_sec = wait_until_loaded(address, options.runs, last_step=written)
            opened = [open_once(address) for _ in range(options.rounds)]
    seconds = [one["seconds"] for one in opened]
    memory = max(one["private_bytes"] for one in opened)
    show(options, loaded_sec, opened)
    return int(float(np.median(seconds)) > options.most_seconds or memory > options.most_mb * 10**6)


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=50, help="number of runs (default: %(default)s)")
    parser.add_argument("--points", type=int, default=1_000_000, help="points of all runs (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="how many times to open the tab (default: %(default)s)")
    parser.add_argument(
        "--most-seconds", type=float, default=3.0, help="longest median time to open (default: %(default)s)"
    )
    parser.add_argument(
        "--most-mb", type=float, default=500.0, help="most private memory of the browser, in MB (default: %(default)s)"
    )
    return parser


def write_runs(logdir: Path, *, runs: int, points: int) -> int:
    """Write the event files and return the last step of every run."""
    steps = points // runs // len(_TAGS)
    random = np.random.default_rng(0)
    for run in range(runs):
        directory = logdir / f"run-{run:03}"
        directory.mkdir(parents=True)
        with (directory / "events.out.tfevents.1700000000.host.1.0").open("wb") as file:
            writer = RecordWriter(file)
            for event in events(run, steps, random):
                writer.write(event.SerializeToString())
    return steps * 10


def events(run: int, steps: int, random: np.random.Generator) -> Iterator[Event]:
    """Yields the events of a run: its record, and an event for each value, as Lightning's logger writes them."""
    start = 1.7e9 + run * 3600
    yield Event(wall_time=start, file_version="brain.Event:2")
    yield Event(wall_time=start, step=0, summary=record(run))
    for index in range(1, steps + 1):
        shares = random.dirichlet(np.full(len(WATERFALL), 5.0))
        values = [shares[0], 1e5 * shares[0], 0.1, 100 * shares[0], *shares]
        for tag, value in zip(_TAGS, values, strict=True):
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
            yield Event(wall_time=start + index, step=index * 10, summary=summary)


def record(run: int) -> Summary:
    """Returns the record that a run writes while it trains: its facts, without figures."""
    peak = {"flops_per_sec": 312e12, "name": "A100", "dtype": "bfloat16", "source": "given: peak="}
    modules = [{"name": f"blocks.*.part{part}", "modules": 48, "flops": 1e9 * (part + 1)} for part in range(12)]
    facts = {"model": "GPT", "parameters": 10**9, "parameter_bytes": 2 * 10**9, "batch_size": run + 1}
    facts |= {"batch_flops": 1e12 * (run + 1), "precision": "bf16-mixed", "devices": 8, "modules": modules}
    text = json.dumps({"steps": 0, "mfu": None, "peak": peak, "run": facts}).encode()
    plugin = SummaryMetadata.PluginData(plugin_name=PLUGIN_NAME)
    metadata = SummaryMetadata(plugin_data=plugin, data_class=DATA_CLASS_TENSOR)
    tensor = TensorProto(dtype=DT_STRING, string_val=[text])
    return Summary(value=[Summary.Value(tag=RECORD_TAG, metadata=metadata, tensor=tensor)])


def wait_until_loaded(address: str, runs: int, *, last_step: int) -> float:
    """Wait until TensorBoard's own scalars have the last point of every run; returns the seconds that it took."""
    start = time.perf_counter()
    waiting = {f"run-{run:03}" for run in range(runs)}
    while waiting:
        waiting = {run for run in waiting if _last_step(address, run) != last_step}
        if time.perf_counter() - start > _PATIENCE_SEC:
            raise TimeoutError(f"TensorBoard has not loaded {len(waiting)} of {runs} runs in {_PATIENCE_SEC} s")
        time.sleep(0.2)
    return time.perf_counter() - start


def _last_step(address: str, run: str) -> int | None:
    query = urlencode({"run": run, "tag": _TAGS[-1]})
    try:
        with urlopen(f"{address}/data/plugin/scalars/scalars?{query}") as answer:
            return int(json.load(answer)[-1][1])
    except OSError:  # the run is not loaded yet
        return None


def open_once(address: str) -> dict[str, float]:
    """Open the tab in a new browser, wait for its charts, and return the seconds and the memory."""
    with chromium() as browser:
        start = time.perf_counter()
        browser.open_tab(address)
        for chart in _CHARTS:
            browser.until(lambda chart=chart: is_drawn(browser, chart))
        seconds = time.perf_counter() - start
        heap = browser.run("return performance.memory.usedJSHeapSize")
        return {"seconds": seconds, "heap_bytes": heap, **memory_bytes(browser)}


def is_drawn(browser: Browser, chart: str) -> bool:
    """Whether a chart has drawn any data."""
    script = "return document.querySelector(arguments[0]) !== null"
    return bool(browser.run(script, f"#{chart} :is(path.js-line, .bars path, path.point, path.js-fill)"))


def memory_bytes(browser: Browser) -> dict[str, int]:
    """Returns the memory of all the browser's processes: private, and with the program pages that they share."""
    driver = psutil.Process(browser.driver.service.process.pid)
    used: list[Any] = [process.memory_full_info() for process in driver.children(recursive=True)]
    return {
        "private_bytes": sum(one.uss for one in used),
        "all_bytes": sum(getattr(one, "pss", one.rss) for one in used),
    }


def show(options: argparse.Namespace, loaded_sec: float, opened: list[dict[str, float]]) -> None:
    """Print the figures."""
    table = Table(title=f"The tab with {options.runs} runs and {options.points:,} points", title_justify="left")
    for column in ("", "median", "worst"):
        table.add_column(column, justify="right" if column else "left")
    for name, key, unit, form in (
        ("time to open, s", "seconds", 1, ".2f"),
        ("private memory of the whole browser, MB", "private_bytes", 10**6, ".0f"),
        ("memory with the shared pages of its program, MB", "all_bytes", 10**6, ".0f"),
        ("JavaScript heap of the page, MB", "heap_bytes", 10**6, ".0f"),
    ):
        values = [one[key] / unit for one in opened]
        table.add_row(name, f"{np.median(values):{form}}", f"{max(values):{form}}")
    console = Console()
    console.print(table)
    console.print(f"TensorBoard had loaded the files after {loaded_sec:.1f} s.", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
