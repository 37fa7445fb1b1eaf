"""Reads runs as TensorBoard has loaded them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from functools import cached_property
from typing import Any

from tensorboard.data.provider import RunTagFilter

from mfu_callback.logs.names import PLUGIN_NAME, RECORD_TAG
from mfu_callback.logs.record_json import record_from
from mfu_callback.logs.run_log import RunLog, Series, own_tag
from mfu_callback.meter.tags import TAGS

_SCALARS = "scalars"
_POINTS_OF_FIGURES = 100  # of a run whose record has no figures yet


class ProvidedLogs:
    """Reads runs from a data provider of TensorBoard's, for one request.

    Args:
        data_provider: TensorBoard's data provider.
        context: Context of the request.
        experiment_id: Experiment of the request.
    """

    def __init__(self, data_provider: Any, context: Any, experiment_id: str) -> None:
        self._provider = data_provider
        self._of_request = {"ctx": context, "experiment_id": experiment_id}

    def has_any(self) -> bool:
        """Whether any run has logged one of our tags, or a record."""
        return bool(self._tags) or bool(self._provider.list_tensors(plugin_name=PLUGIN_NAME, **self._of_request))

    def runs(self) -> list[RunLog]:
        """All runs that have logged our tags or a record, sorted by name; with points if the record has no figures."""
        tags, records = self._tags, self._records()
        unfinished = [run for run in tags if not (records.get(run) or {}).get("steps")]
        scalars = self._read(unfinished, [tag.name for tag in TAGS], points=_POINTS_OF_FIGURES)
        names = sorted({*tags, *records})
        return [RunLog(name=run, scalars=scalars.get(run, {}), record=records.get(run)) for run in names]

    def run(self, name: str) -> RunLog:
        """One run: with the record, or with points if it has no figures; empty if there is no such run."""
        record = self._records([name]).get(name)
        scalars = (
            {}
            if record and record.get("steps")
            else self._read([name], [tag.name for tag in TAGS], points=_POINTS_OF_FIGURES)
        )
        return RunLog(name=name, scalars=scalars.get(name, {}), record=record)

    def series(self, tags: Collection[str], *, run: str | None = None, points: int) -> dict[str, dict[str, Series]]:
        """The points of some tags by run and tag.

        Args:
            tags: Names of our tags.
            run: Name of the run; None for all runs.
            points: At most this many points of each, evenly spaced among those that TensorBoard keeps.
        """
        return self._read(self._tags if run is None else [run], tags, points=points)

    @cached_property
    def _tags(self) -> dict[str, dict[str, str]]:
        """By run and by our tag: the name under which the run has logged it."""
        listed = self._provider.list_scalars(plugin_name=_SCALARS, **self._of_request)
        ours = {run: {own: tag for tag in tags if (own := own_tag(tag)) is not None} for run, tags in listed.items()}
        return {run: tags for run, tags in ours.items() if tags}

    def _records(self, runs: Collection[str] | None = None) -> dict[str, Any]:
        wanted = RunTagFilter(runs=runs, tags=[RECORD_TAG])
        read = self._provider.read_tensors(
            plugin_name=PLUGIN_NAME, downsample=1, run_tag_filter=wanted, **self._of_request
        )
        records = {run: record_from(_bytes(tags[RECORD_TAG][-1])) for run, tags in read.items() if tags.get(RECORD_TAG)}
        return {run: record for run, record in records.items() if record is not None}

    def _read(self, runs: Iterable[str], tags: Collection[str], *, points: int) -> dict[str, dict[str, Series]]:
        logged = self._tags
        runs = [run for run in runs if run in logged]
        wanted = {logged[run][tag] for run in runs for tag in tags if tag in logged[run]}
        if not wanted:
            return {}
        read = self._provider.read_scalars(
            plugin_name=_SCALARS,
            downsample=points,
            run_tag_filter=RunTagFilter(runs=runs, tags=wanted),
            **self._of_request,
        )
        return {run: {own_tag(tag) or tag: _series(data) for tag, data in found.items()} for run, found in read.items()}


def _series(data: Iterable[Any]) -> Series:
    finite = [datum for datum in data if math.isfinite(datum.value)]
    return Series(
        steps=[datum.step for datum in finite],
        wall_times=[datum.wall_time for datum in finite],
        values=[datum.value for datum in finite],
    )


def _bytes(datum: Any) -> bytes:
    value = datum.numpy.ravel()[0] if datum.numpy.size else b""
    return value if isinstance(value, bytes) else str(value).encode()
