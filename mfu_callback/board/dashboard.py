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
    """The charts by category, as `SummaryWriter.add_custom_scalars` takes them.

    Args:
        names: The tags that are logged; a chart of others would stay empty.
    """
    categories: Layout = {category: {} for category in CATEGORIES}
    for tag in TAGS:
        if tag.name in names:
            chart = categories[tag.category].setdefault(tag.chart, ["Multiline", []])
            chart[1].append(f"(.*-)?{re.escape(tag.name)}$")  # a logger may have a prefix
    return {category: charts for category, charts in categories.items() if charts}


def is_layout(summary: Any) -> bool:
    """Whether a summary is a layout."""
    return any(value.tag == _LAYOUT_TAG for value in summary.value)


def has_layout(directory: str) -> bool:
    """Whether a run has a layout already, by its user or by a fit before; a run has one at most, the latest.

    Args:
        directory: Of the run's event files, all of them written out.
    """
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    return any(
        is_layout(event.summary)
        for file in Path(directory).glob("*tfevents*")
        for event in islice(EventFileLoader(str(file)).Load(), _EVENTS_LOOKED_AT)
    )
