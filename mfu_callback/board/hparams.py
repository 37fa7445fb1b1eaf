"""HParams: the run's row in TensorBoard's table of runs, so that they can be sorted by MFU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

from mfu_callback._brackets import Brackets, Function
from mfu_callback.board.facts import RunFacts
from mfu_callback.tags import MFU, TOKENS_PER_SEC

METRICS = (MFU, TOKENS_PER_SEC)
_PREFIX = "_hparams_/"


class HParamsOfRun:
    """Adds the facts of a run to the HParams that its user logs, or logs them alone if the user logs none.

    TensorBoard takes the first HParams of a run and no later ones. So the user's are held back from the start of fit
    until the facts are known, which is after its first step, and are then written with them.

    Args:
        file_writer: What writes the run's event file.
        brackets: Take it off again.
        prefix: Of the logger's tags.
    """

    def __init__(self, file_writer: Any, brackets: Brackets, prefix: str = "") -> None:
        self._writer = file_writer
        self._metrics = [f"{prefix}{name}" for name in METRICS]
        self._held: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []
        self._facts: RunFacts | None = None
        self._has_written = False
        brackets.put(file_writer, "add_summary", self._holding)

    def complete(self, facts: RunFacts) -> None:
        """The facts are known now."""
        self._facts = facts
        self._release()

    def end(self) -> None:
        """Fit is over: write what is held, and the facts alone if that is nothing."""
        self._release()
        if self._facts is not None and not self._has_written:
            from torch.utils.tensorboard.summary import hparams

            # Names alone: the values of the metrics are the run's scalars.
            for summary in hparams({}, dict.fromkeys(self._metrics, 0.0)):  # type: ignore[no-untyped-call]
                self._writer.add_summary(summary)

    def _release(self) -> None:
        held, self._held = self._held, []
        for summary, args, kwargs in held:
            self._add_summary(self._completed(summary), *args, **kwargs)

    def _holding(self, add_summary: Function) -> Callable[..., Any]:
        self._add_summary = add_summary

        def call(summary: Any, *args: Any, **kwargs: Any) -> None:
            if not any(value.tag.startswith(_PREFIX) for value in summary.value):
                add_summary(summary, *args, **kwargs)
                return
            self._has_written = True
            if self._facts is None:
                self._held.append((summary, args, kwargs))
            else:
                add_summary(self._completed(summary), *args, **kwargs)

        return call

    def _completed(self, summary: Any) -> Any:
        if self._facts is None:
            return summary
        values = _values(self._facts)
        for value in summary.value:
            if value.tag not in (metadata.EXPERIMENT_TAG, metadata.SESSION_START_INFO_TAG):
                continue
            data = plugin_data_pb2.HParamsPluginData.FromString(value.metadata.plugin_data.content)
            if value.tag == metadata.EXPERIMENT_TAG:
                _add_columns(data.experiment, values, self._metrics)
            else:
                _add_values(data.session_start_info, values)
            value.metadata.plugin_data.content = data.SerializeToString()
        return summary


def _values(facts: RunFacts) -> dict[str, str | float]:
    values: dict[str, str | float | None] = {
        "run/model": facts.model,
        "run/parameters": facts.parameters,
        "run/batch_size": facts.batch_size,
        "run/precision": facts.precision,
        "run/devices": facts.devices,
        "run/device": facts.device,
    }
    return {name: value for name, value in values.items() if value is not None}


def _add_columns(experiment: Any, values: dict[str, str | float], metrics: list[str]) -> None:
    for name, value in values.items():
        kind = api_pb2.DATA_TYPE_STRING if isinstance(value, str) else api_pb2.DATA_TYPE_FLOAT64
        experiment.hparam_infos.add(name=name, type=kind)
    known = {info.name.tag for info in experiment.metric_infos}
    for tag in metrics:
        if tag not in known:
            experiment.metric_infos.add(name=api_pb2.MetricName(tag=tag))


def _add_values(start: Any, values: dict[str, str | float]) -> None:
    for name, value in values.items():
        if isinstance(value, str):
            start.hparams[name].string_value = value
        else:
            start.hparams[name].number_value = value
