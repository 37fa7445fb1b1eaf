"""The layout of TensorBoard's custom scalars tab."""

from __future__ import annotations

import re
from collections.abc import Collection
from itertools import islice
from pathlib import Path
from typing import Any

from mfu_callback.meter.tags import CATEGORIES, TAGS

_LAYOUT_TAG = "custom_scalars__config__"
_EVENTS_LOOKED_AT = 1_000  # of each file: a layout is written when a run begins

Layout = dict[str, dict[str, list[Any]]]


def layout(names: Collection[str]) -> Layout:
    """The charts by category, in the form that `SummaryWriter.add_custom_scalars` accepts.

    Args:
        names: The tags that are logged. Charts of other tags would stay empty.
    """
    categories: Layout = {category: {} for category in CATEGORIES}
    for tag in TAGS:
        if tag.name in names:
            chart = categories[tag.category].setdefault(tag.chart, ["Multiline", []])
            chart[1].append(f"(.*-|train/)?{re.escape(tag.name)}$")  # a logger may have a prefix
    return {category: charts for category, charts in categories.items() if charts}


def is_layout(summary: Any) -> bool:
    """Whether a summary is a layout."""
    return any(value.tag == _LAYOUT_TAG for value in summary.value)


def has_layout(directory: str) -> bool:
    """Whether a run already has a layout, from its user or from an earlier fit.

    TensorBoard shows only the latest layout of a run.

    Args:
        directory: Holds the run's event files, which are flushed.
    """
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    return any(
        is_layout(event.summary)
        for file in Path(directory).glob("*tfevents*")
        for event in islice(EventFileLoader(str(file)).Load(), _EVENTS_LOOKED_AT)
    )
