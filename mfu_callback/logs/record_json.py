"""A run's record, as it is kept: JSON (`mfu_callback.board.record`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

# What a reader takes for granted if it is there at all: its kind, and that of what is inside it.
_NUMBERS = ("mfu", "tokens_per_sec", "step_time_sec", "samples_per_sec", "steps")
_TABLES = ("run", "peak", "achievable", "flops", "waterfall", "phases_sec", "wall_time_sec")


def record_from(text: str | bytes) -> Mapping[str, Any] | None:
    """A record from its JSON; None if it is none.

    Args:
        text: Of a file or of an event, by whomever it was written.
    """
    try:
        record = json.loads(text)
    except ValueError:
        return None
    if not isinstance(record, dict):
        return None
    is_one = all(isinstance(record.get(name, 0), int | float | None) for name in _NUMBERS)
    is_one = is_one and all(isinstance(record.get(name), dict | None) for name in _TABLES)
    return record if is_one else None
