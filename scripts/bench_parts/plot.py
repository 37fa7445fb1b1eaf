"""Draws the benchmark's rows: tokens/s and MFU by size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

from scripts.bench_parts.row import Row

matplotlib.use("Agg")

import matplotlib.pyplot as plt


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw the measured rows and write the picture to a PNG file."""
    measured = [row for row in rows if row.mfu is not None and row.tokens_per_sec is not None]
    sizes = [row.size for row in measured]
    figure, (speed, use) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    bars = speed.bar(sizes, [row.tokens_per_sec or 0 for row in measured], color="tab:blue")
    speed.bar_label(bars, fmt="{:,.0f}")
    speed.set(title="Throughput", ylabel="tokens/s, all devices")
    speed.margins(y=0.15)
    bars = use.bar(sizes, [row.mfu or 0 for row in measured], color="tab:orange")
    use.bar_label(bars, fmt="{:.3f}")
    use.set(title="Model FLOPs utilization", ylabel="fraction of peak", ylim=(0, 1))
    if measured:
        first = measured[0]
        figure.suptitle(f"{first.device}, {first.precision}, context {first.context_length}", fontsize=10)
    figure.savefig(path, dpi=120)
    plt.close(figure)
