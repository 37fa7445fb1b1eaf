"""Draws the benchmark's rows: tokens/s, MFU and the waterfall by size, and the roofline of their operators."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import matplotlib
import numpy as np

from mfu_callback.report.parts import PARTS
from scripts.bench_parts.roofline import Point, points_of
from scripts.bench_parts.row import Row
from scripts.bench_parts.table import options_text, rate_text

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

_BLUE, _ORANGE, _GRAY = "#0072b2", "#e69f00", "#7f7f7f"
_SIZE_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
_MARKERS = {"matmul": "o", "attention": "^", "step": "*"}
_WORTH_A_NUMBER = 0.05


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw the measured rows and write the picture to a PNG file."""
    measured = [row for row in rows if row.mfu is not None and row.tokens_per_sec is not None]
    figure, ((speed, use), (parts, roof)) = plt.subplots(2, 2, figsize=(12, 8.5), layout="constrained")
    _bars(speed, measured, "tokens_per_sec", _BLUE)
    speed.set(title="Throughput", ylabel="tokens/s, all devices")
    speed.margins(y=0.15)
    _bars(use, measured, "mfu", _ORANGE)
    use.set(title="Model FLOPs utilization", ylabel="fraction of the peak", ylim=(0, 1))
    _waterfall(parts, [row for row in measured if row.waterfall])
    _roofline(roof, [row for row in measured if row.operators])
    if measured:
        figure.suptitle(_title(measured), fontsize=11)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _title(rows: Sequence[Row]) -> str:
    first = rows[0]
    precisions = " and ".join(dict.fromkeys(row.precision or "" for row in rows))
    options = options_text(first)
    return f"{first.device}, {precisions}{', ' if options else ''}{options}"


def _label(row: Row) -> str:
    return f"{row.size}\n{row.batch_size} x {row.context_length}"


def _bars(axes: Axes, rows: Sequence[Row], field: str, color: str) -> None:
    """Draw a bar for each size, with the range of its runs where there are several."""
    values = [getattr(row, field) for row in rows]
    spread = np.array([_spread(row.range_of(field), value) for row, value in zip(rows, values, strict=True)])
    errors = None if not len(rows) or np.isnan(spread).all() else spread.T
    bars = axes.bar([_label(row) for row in rows], values, color=color, yerr=errors, capsize=6)
    texts = [rate_text(value) if field == "tokens_per_sec" else f"{value:.3f}" for value in values]
    axes.bar_label(bars, texts, padding=2)


def _spread(between: tuple[float, float] | None, value: float) -> tuple[float, float]:
    """How far a range reaches below and above a value; not at all if there is none.

    The bar stands at the run of the median speed, whose MFU need not lie between those of runs with other peaks.
    """
    return (math.nan, math.nan) if between is None else (max(value - between[0], 0.0), max(between[1] - value, 0.0))


def _waterfall(axes: Axes, rows: Sequence[Row]) -> None:
    """Stack the parts of the machine, which sum to 1, for each size."""
    labels = [_label(row) for row in rows]
    below = [0.0] * len(rows)
    for part in PARTS:
        shares = [(row.waterfall or {}).get(part.name, 0.0) for row in rows]
        if not any(shares):
            continue
        bars = axes.bar(labels, shares, bottom=below, color=part.color, label=part.label)
        texts = [f"{share:.0%}" if share >= _WORTH_A_NUMBER else "" for share in shares]
        axes.bar_label(bars, texts, label_type="center", fontsize=9)
        below = [low + share for low, share in zip(below, shares, strict=True)]
    axes.set(title="Where the machine went", ylabel="share of the machine", ylim=(0, 1))
    if rows:
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, -0.32), ncol=3, fontsize=8, frameon=False)


def _roofline(axes: Axes, rows: Sequence[Row]) -> None:
    """Place the products of each size, and its step as a whole, under the roofs of the device."""
    axes.set(title="Roofline", xlabel="FLOPs per byte", ylabel="TFLOP/s, one device", xscale="log", yscale="log")
    points = {row.size: points_of(row) for row in rows}
    if not any(points.values()):
        return
    for (size, own), color in zip(points.items(), cycle(_SIZE_COLORS)):
        for kind, marker in _MARKERS.items():
            _scatter(axes, [point for point in own if point.kind == kind], marker, color)
        axes.scatter([], [], marker="s", color=color, label=size)
    for kind, marker in _MARKERS.items():
        axes.scatter([], [], marker=marker, color=_GRAY, label="the whole step" if kind == "step" else kind)
    where = [point.flops_per_byte for own in points.values() for point in own]
    bandwidth = max(row.bandwidth_bytes_per_sec or 0.0 for row in rows)
    peaks = {row.precision: row.peak_flops_per_sec for row in sorted(rows, key=lambda row: row.peak_flops_per_sec)}
    for precision, peak in peaks.items():
        _roof(axes, precision, peak, bandwidth, (min(where), max(where)))
    axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, -0.32), ncol=4, frameon=False)


def _scatter(axes: Axes, points: Sequence[Point], marker: str, color: str) -> None:
    """Draw operators as large as their share of the time, and the step as a whole with an edge."""
    is_step = any(point.kind == "step" for point in points)
    areas = [220.0 if is_step else 25 + 250 * point.share for point in points]
    look = {"edgecolors": "black", "linewidths": 0.8} if is_step else {"alpha": 0.65, "linewidths": 0}
    where = [point.flops_per_byte for point in points], [point.flops_per_sec / 1e12 for point in points]
    axes.scatter(*where, s=areas, marker=marker, color=color, **look)


def _roof(axes: Axes, precision: str, peak: float, bandwidth: float, between: tuple[float, float]) -> None:
    """Draw the roof of a precision: its best peak, and left of it what the memory allows, 0 where that is unknown."""
    ridge = peak / bandwidth if bandwidth else between[0]
    left, right = min(between[0], ridge) / 2, 2 * max(between[1], ridge)
    if bandwidth:
        axes.plot([left, ridge], [left * bandwidth / 1e12, peak / 1e12], color=_GRAY, linewidth=1.2)
    axes.plot([ridge, right], [peak / 1e12] * 2, color=_GRAY, linewidth=1.2)
    slope = f"{bandwidth / 1e9:.3g} GB/s, " if bandwidth else ""
    place = {"textcoords": "offset points", "xytext": (0, 4), "ha": "right", "fontsize": 8, "color": "#404040"}
    axes.annotate(f"{slope}{peak / 1e12:.3g} TFLOP/s, {precision}", (right, peak / 1e12), **place)
    axes.margins(y=0.12)
