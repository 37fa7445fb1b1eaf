"""Computes the figures of a run from what it has logged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mfu_callback.logs.run_log import RunLog, Series
from mfu_callback.meter.advice import advice_of_run
from mfu_callback.meter.tags import CUMULATIVE, PARTS_OF_SEVERAL, STEP_TIME_SEC, TAGS, WATERFALL, WATERFALL_PARTS


def figures_of(run: RunLog) -> dict[str, Any]:
    """The figures of a run under the field names of `mfu_callback.meter.summary.Summary`; missing or None if unknown.

    A run whose fit has ended has written its figures itself. Otherwise they are computed from the logged windows: rates
    and shares of time are means weighted by the time of the windows, so that they hold for all windows together.

    Args:
        run: What the run has logged.
    """
    record = dict(run.record or {})
    if record.get("steps"):
        return record
    figures = record | {tag.attribute: None for tag in TAGS} | _means(run.scalars)
    figures["mean_step_time_sec"] = figures.pop("step_time_sec")
    figures["advice"] = advice_of_run(record.get("hints") or (), figures["waterfall"], figures["mean_step_time_sec"])
    return figures


def step_time_sec(figures: Mapping[str, Any]) -> float | None:
    """Seconds of a step: the median if the run has written it, otherwise the mean of the logged values."""
    time: float | None = figures.get("step_time_sec") or figures.get("mean_step_time_sec")
    return time


def _means(scalars: Mapping[str, Series]) -> dict[str, Any]:
    means: dict[str, Any] = {}
    times = scalars.get(STEP_TIME_SEC, Series())
    seconds = dict(zip(times.steps, _steps_of_windows(times) * np.array(times.values), strict=True))
    for tag in TAGS:
        series = scalars.get(tag.name)
        if series is None or not series.values or tag.part is not None:
            continue
        if tag.name in CUMULATIVE:
            means[tag.attribute] = series.values[-1]
        else:
            means[tag.attribute] = _mean_step_time(series) if tag.name == STEP_TIME_SEC else _mean(series, seconds)
    waterfall = waterfall_of(scalars)
    if waterfall:
        known = {part: _mean(series, seconds) for part, series in waterfall.items()}
        means["waterfall"] = {part: known.get(part, 0.0) for part in WATERFALL_PARTS}
    return means


def waterfall_of(scalars: Mapping[str, Series]) -> dict[str, Series]:
    """The parts of the waterfall that a run has logged, in their order; empty if one is missing.

    Those of several devices are not missed: a run with one device does not log them, nor did any before version 0.2. If
    they were logged at some steps only, they are 0 at the others.

    Args:
        scalars: The run's points by tag.
    """
    logged = {part: scalars[name] for part, name in WATERFALL.items() if name in scalars and scalars[name].values}
    if not set(WATERFALL_PARTS) - set(PARTS_OF_SEVERAL) <= logged.keys():
        return {}
    return {
        part: _filled(series, logged["mfu"]) if part in PARTS_OF_SEVERAL else series for part, series in logged.items()
    }


def _filled(series: Series, other: Series) -> Series:
    """The points at the steps of another series, 0 where there is none."""
    at = dict(zip(series.steps, series.values, strict=True))
    values = [at.get(step, 0.0) for step in other.steps]
    return Series(steps=other.steps, wall_times=other.wall_times, values=values)


def _steps_of_windows(series: Series) -> np.ndarray:
    """Number of steps of each point's window: those since the previous point; the median for the first point."""
    between = np.diff(np.array(series.steps, dtype=float))
    usual = float(np.median(between)) if len(between) else 1.0
    # A run that was resumed from a checkpoint repeats steps.
    steps: np.ndarray = np.maximum(np.concatenate([[usual], between])[: len(series.steps)], 1.0)
    return steps


def _mean_step_time(series: Series) -> float:
    return float(np.average(series.values, weights=_steps_of_windows(series)))


def _mean(series: Series, seconds: Mapping[int, float]) -> float:
    weights = [seconds.get(step, 0.0) for step in series.steps]
    return float(np.average(series.values, weights=weights if sum(weights) > 0 else None))
