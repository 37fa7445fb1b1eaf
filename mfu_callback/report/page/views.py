"""Runs as plain data for the tab and the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mfu_callback.logs.figures import figures_of, step_time_sec
from mfu_callback.logs.run_log import RunLog, Series
from mfu_callback.meter.tags import DEVICE_TFLOPS_PER_SEC, WATERFALL

# Weights are read in the forward and the backward pass, and their gradients are written once.
_WEIGHTS_MOVED = 3
# The figures that the page needs; a record has more, and much more for a large model.
_SHOWN = ("mfu", "tokens_per_sec", "samples_per_sec", "steps", "peak", "run", "advice", "waterfall")


def run_view(run: RunLog) -> dict[str, Any]:
    """A run for the table and the roofline: its name, its figures, and its place under the roof.

    Args:
        run: The log of the run.
    """
    figures = figures_of(run)
    return {
        "name": run.name,
        "figures": {name: figures.get(name) for name in _SHOWN},
        "step_time_sec": step_time_sec(figures),
        "roofline": _roofline(figures, run.scalars.get(DEVICE_TFLOPS_PER_SEC)),
    }


def series_view(series: Series) -> dict[str, list[Any]]:
    """The points of one tag."""
    return {"steps": series.steps, "wall_times": series.wall_times, "values": series.values}


def waterfall_view(scalars: Mapping[str, Series]) -> dict[str, Any]:
    """The parts of a run's waterfall over time, at the steps that all parts have.

    Args:
        scalars: The run's points by tag.
    """
    parts = {part: scalars[name] for part, name in WATERFALL.items() if name in scalars}
    if len(parts) < len(WATERFALL):
        return {"steps": [], "wall_times": [], "parts": {}}
    common = set.intersection(*(set(series.steps) for series in parts.values()))
    at = {part: dict(zip(series.steps, series.values, strict=True)) for part, series in parts.items()}
    times = parts["mfu"].wall_times
    wall_times = [time for step, time in zip(parts["mfu"].steps, times, strict=False) if step in common]
    steps = sorted(common)
    return {
        "steps": steps,
        "wall_times": wall_times,
        "parts": {part: [values[step] for step in steps] for part, values in at.items()},
    }


def _roofline(figures: Mapping[str, Any], tflops_per_sec: Series | None) -> dict[str, Any] | None:
    """The place of a run under the roof of its device; None if its rate or its FLOPs per byte are unknown.

    The FLOPs per byte count the bytes of weights and gradients alone. Activations are moved too, so the true place lies
    further to the left.
    """
    run, peak = figures.get("run") or {}, figures.get("peak")
    moved = _WEIGHTS_MOVED * (run.get("parameter_bytes") or 0)
    rate = _rate(figures, tflops_per_sec)
    if peak is None or not run.get("batch_flops") or not moved or rate is None:
        return None
    return {
        "device": f"{peak['name']}, {peak['dtype']}",
        "peak": peak["flops_per_sec"],
        "achievable": (figures.get("achievable") or {}).get("flops_per_sec"),
        "bandwidth": peak.get("bandwidth_bytes_per_sec"),
        "intensity": run["batch_flops"] / moved,
        "flops_per_sec": rate,
    }


def _rate(figures: Mapping[str, Any], tflops_per_sec: Series | None) -> float | None:
    if figures.get("mfu") is not None and figures.get("peak"):
        return float(figures["mfu"] * figures["peak"]["flops_per_sec"])
    return tflops_per_sec.values[-1] * 1e12 if tflops_per_sec is not None and tflops_per_sec.values else None
