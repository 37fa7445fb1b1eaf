"""HParams: the run's row in TensorBoard's table, so that runs can be sorted by MFU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

from mfu_callback.board.facts import RunFacts
from mfu_callback.meter.tags import MFU, TOKENS_PER_SEC

_METRICS = (MFU, TOKENS_PER_SEC)
_PREFIX = "_hparams_/"


def is_hparams(summary: Any) -> bool:
    """Whether a summary is of HParams."""
    return any(value.tag.startswith(_PREFIX) for value in summary.value)


def hparams_of_run(facts: RunFacts, prefix: str) -> list[Any]:
    """HParams summaries for a run whose user logs none.

    Args:
        facts: The facts of the run.
        prefix: Prefix of the logger's tags.
    """
    from torch.utils.tensorboard.summary import hparams

    # Only the names matter: TensorBoard reads the values of the metrics from the run's scalars.
    summaries = hparams({}, dict.fromkeys(_metrics(prefix), 0.0))  # type: ignore[no-untyped-call]
    return [with_facts(summary, facts, prefix) for summary in summaries]


def with_facts(summary: Any, facts: RunFacts, prefix: str) -> Any:
    """Add the facts of the run and our metrics to a summary of HParams.

    Args:
        summary: The user's summary; changed in place.
        facts: The facts of the run.
        prefix: Prefix of the logger's tags.
    """
    values = _values(facts)
    for value in summary.value:
        if value.tag not in (metadata.EXPERIMENT_TAG, metadata.SESSION_START_INFO_TAG):
            continue
        data = plugin_data_pb2.HParamsPluginData.FromString(value.metadata.plugin_data.content)
        if value.tag == metadata.EXPERIMENT_TAG:
            _add_columns(data.experiment, values, _metrics(prefix))
        else:
            _add_values(data.session_start_info, values)
        value.metadata.plugin_data.content = data.SerializeToString()
    return summary


def _metrics(prefix: str) -> list[str]:
    return [f"{prefix}{name}" for name in _METRICS]


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


def _add_columns(experiment: Any, values: dict[str, str | float], metrics: Sequence[str]) -> None:
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
