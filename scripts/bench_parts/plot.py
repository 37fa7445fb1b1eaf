"""Draws the benchmark's rows: tokens/s, MFU and the waterfall by size, and the roofline of their operators."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

from mfu_callback.report.parts import PARTS
from scripts.bench_parts.roofline import points_of
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
    ranges = [row.range_of(field) or (value, value) for row, value in zip(rows, values, strict=True)]
    # The bar stands at the run with the median speed, whose MFU may lie outside of others' by their measured peaks.
    spread = [
        [max(value - low, 0) for value, (low, _) in zip(values, ranges, strict=True)],
        [max(high - value, 0) for value, (_, high) in zip(values, ranges, strict=True)],
    ]
    has_spread = any(map(any, spread))
    bars = axes.bar([_label(row) for row in rows], values, color=color, yerr=spread if has_spread else None, capsize=6)
    texts = [rate_text(value) if field == "tokens_per_sec" else f"{value:.3f}" for value in values]
    axes.bar_label(bars, texts, padding=2)


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
        axes.legend(*_reversed_legend(axes), loc="upper left", bbox_to_anchor=(1, 1), fontsize=8, frameon=False)


def _reversed_legend(axes: Axes) -> tuple[list[object], list[str]]:
    """The legend in the order of the stack, from its top."""
    handles, labels = axes.get_legend_handles_labels()
    return handles[::-1], labels[::-1]


def _roofline(axes: Axes, rows: Sequence[Row]) -> None:
    """Place the products of each size, and its step as a whole, under the roofs of the device."""
    axes.set(title="Roofline", xlabel="FLOPs per byte", ylabel="TFLOP/s, one device", xscale="log", yscale="log")
    points = [(row, point) for row in rows for point in points_of(row)]
    if not points:
        return
    for number, row in enumerate(rows):
        color = _SIZE_COLORS[number % len(_SIZE_COLORS)]
        for kind, marker in _MARKERS.items():
            own = [point for point in points_of(row) if point.kind == kind]
            areas = [220.0 if kind == "step" else 25 + 250 * point.share for point in own]
            where = [point.flops_per_byte for point in own], [point.flops_per_sec / 1e12 for point in own]
            edge = {"edgecolors": "black", "linewidths": 0.8} if kind == "step" else {"alpha": 0.65, "linewidths": 0}
            axes.scatter(*where, s=areas, marker=marker, color=color, label=f"{row.size}, {kind}", **edge)
    lowest = min(point.flops_per_byte for _, point in points) / 2
    highest = max(point.flops_per_byte for _, point in points) * 4
    for row in {(row.peak_flops_per_sec, row.bandwidth_bytes_per_sec): row for row in rows}.values():
        _roof(axes, row, lowest, highest)
    axes.legend(fontsize=8, loc="lower right")


def _roof(axes: Axes, row: Row, lowest: float, highest: float) -> None:
    """Draw the roof of a row: its peak, and left of it what the memory's bandwidth allows."""
    peak, bandwidth = row.peak_flops_per_sec, row.bandwidth_bytes_per_sec
    if peak is None:
        return
    ridge = lowest if bandwidth is None else peak / bandwidth
    if bandwidth is not None:
        axes.plot([lowest, ridge], [lowest * bandwidth / 1e12, peak / 1e12], color=_GRAY, linewidth=1.2)
    axes.plot([ridge, max(highest, 2 * ridge)], [peak / 1e12] * 2, color=_GRAY, linewidth=1.2)
    slope = "" if bandwidth is None else f", {bandwidth / 1e9:.3g} GB/s"
    text = f"{peak / 1e12:.3g} TFLOP/s{slope} ({row.precision})"
    axes.annotate(text, (ridge, peak / 1e12), textcoords="offset points", xytext=(2, 5), fontsize=8, color=_GRAY)
