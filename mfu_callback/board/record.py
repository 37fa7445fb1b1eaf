"""The record: a run's facts and figures as plain data, for the event file and ``mfu_summary.json``."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from mfu_callback.board.facts import FoundBatchSize, RunFacts
from mfu_callback.flops import FlopCount
from mfu_callback.flops.table import grouped_by_module
from mfu_callback.meter.summary import Summary


def record_of(facts: RunFacts | None, summary: Summary, found: FoundBatchSize | None) -> dict[str, Any]:
    """The record of a run, ready for JSON.

    Args:
        facts: The facts of the run; None if it had no step.
        summary: Its figures; a summary without steps while the run goes on.
        found: The result of a BatchSizeFinder that ran before it.

    Returns:
        The summary's fields (`Summary.as_dict`), and under ``run`` the facts, the FLOPs by module (``modules``) and the
        result of the search (``finder``: `FoundBatchSize.as_dict`, or None). NaN and infinity are None.
    """
    modules = [] if summary.flops is None else _modules(summary.flops)
    known = {} if facts is None else asdict(facts)
    run = known | {"modules": modules, "finder": None if found is None else found.as_dict()}
    record: dict[str, Any] = _finite(summary.as_dict() | {"run": run})
    return record


def record_of_search(found: FoundBatchSize) -> dict[str, Any]:
    """The record of a run of which nothing is known but the result of the search: ``run`` has ``finder`` alone."""
    record: dict[str, Any] = _finite({"run": {"finder": found.as_dict()}})
    return record


def _modules(count: FlopCount) -> list[dict[str, Any]]:
    """Forward FLOPs by group of like modules."""
    groups = grouped_by_module(count.per_module).items()
    return [{"name": name, "modules": number, "flops": flops} for name, (number, flops) in groups]


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
