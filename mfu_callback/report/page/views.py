"""Runs as plain data for the tab and the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mfu_callback.logs.figures import figures_of, step_time_sec, waterfall_of
from mfu_callback.logs.run_log import RunLog, Series
from mfu_callback.meter.tags import DEVICE_TFLOPS_PER_SEC
from mfu_callback.report.devices import gpu_text, memory_text, name_of, pace_sentence

# Weights are read in the forward and the backward pass, and their gradients are written once.
_WEIGHTS_MOVED = 3
# The figures that the page needs; a record has more, and much more for a large model.
_SHOWN = ("mfu", "tokens_per_sec", "samples_per_sec", "steps", "peak", "run", "advice", "waterfall")
# A run may have thousands of them, more than anyone looks at.
_MOST_DEVICES, _MOST_OPERATORS = 64, 100


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


def details_view(run: RunLog) -> dict[str, Any]:
    """What is shown of the selected run alone: its devices, its operators, and what fills its part "kernels".

    Args:
        run: The log of the run.

    Returns:
        ``waterfall`` and ``kernels``, shares of the machine; ``step_sec``, mean seconds of a step, of which they are
        shares; ``devices`` and ``operators``, not more than a page can show, and how many there are (``number_of``);
        ``slowest``, the rank that the others wait for, and what is said of it (``pace``); ``facts``, rows of a name and
        a text. What is unknown is None.
    """
    figures = figures_of(run)
    devices, operators, pace = (figures.get(name) for name in ("devices", "operators", "pace"))
    slowest = pace["rank"] if pace else None
    facts = [("memory", memory_text(figures.get("memory"))), ("GPU", gpu_text(figures.get("gpu")))]
    return {
        "waterfall": figures.get("waterfall"),
        "kernels": figures.get("kernels"),
        "step_sec": sum((figures.get("phases_sec") or {}).values()) or step_time_sec(figures),
        "devices": [_device(one) for one in _some_devices(devices, slowest)] if devices else None,
        "operators": operators[:_MOST_OPERATORS] if operators else None,
        "number_of": {"devices": len(devices or ()), "operators": len(operators or ())},
        "slowest": slowest,
        "pace": pace_sentence(pace),
        "facts": [(name, text) for name, text in facts if text is not None],
    }


def _device(device: Mapping[str, Any]) -> dict[str, Any]:
    """A device's name, and the seconds of its step by phase, with those that it waits."""
    seconds = device["phases_sec"] | {"waits": device["waits_sec"]}
    return {"rank": device["rank"], "name": name_of(device), "seconds": seconds}


def _some_devices(devices: Sequence[Mapping[str, Any]], slowest: int | None) -> list[Mapping[str, Any]]:
    """The slowest device and those that wait least for the others, sorted by rank."""
    latest_first = sorted(devices, key=lambda device: (device["rank"] != slowest, device["waits_sec"]))
    return sorted(latest_first[:_MOST_DEVICES], key=lambda device: device["rank"])


def series_view(series: Series) -> dict[str, list[Any]]:
    """The points of one tag."""
    return {"steps": series.steps, "wall_times": series.wall_times, "values": series.values}


def waterfall_view(scalars: Mapping[str, Series]) -> dict[str, Any]:
    """The logged parts of a run's waterfall over time, at the steps that all parts have.

    Args:
        scalars: The run's points by tag.
    """
    parts = waterfall_of(scalars)
    if not parts:
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
