"""Functions that read event files for the tests, and functions that damage them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from mfu_callback.logs.names import CARD_TAG, RECORD_TAG

LAYOUT_TAG = "custom_scalars__config__"


def event_files(directory: Path) -> list[Path]:
    """The event files of a run, in the order of their names."""
    return sorted(Path(directory).glob("*tfevents*"))


def tensors(directory: Path) -> dict[str, list[bytes]]:
    """Texts, layouts and records of a run by tag, in the order of the files."""
    found: dict[str, list[bytes]] = {}
    for file in event_files(directory):
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                if value.tensor.string_val:
                    found.setdefault(value.tag, []).append(value.tensor.string_val[0])
    return found


def tag_counts(directory: Path) -> Counter[str]:
    """How often each tag is in a run's files."""
    return Counter(
        value.tag
        for file in event_files(directory)
        for event in EventFileLoader(str(file)).Load()
        for value in event.summary.value
    )


def records(directory: Path) -> list[dict[str, Any]]:
    """The records of a run."""
    return [json.loads(text) for text in tensors(directory).get(RECORD_TAG, [])]


def cards(directory: Path) -> list[str]:
    """The cards of a run."""
    return [text.decode() for text in tensors(directory).get(f"{CARD_TAG}/text_summary", [])]


def layouts(directory: Path) -> list[Layout]:
    """The layouts of a run."""
    return [Layout.FromString(text) for text in tensors(directory).get(LAYOUT_TAG, [])]


def hparams(directory: Path) -> tuple[dict[str, Any], list[str], list[str]]:
    """The HParams that TensorBoard reads from a run: the values, the names of the columns, the metrics."""
    runs = EventMultiplexer().AddRunsFromDirectory(str(directory))
    runs.Reload()

    def data(tag: str) -> HParamsPluginData:
        return HParamsPluginData.FromString(runs.SummaryMetadata(".", f"_hparams_/{tag}").plugin_data.content)

    start, experiment = data("session_start_info").session_start_info, data("experiment").experiment
    values = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}
    columns = [info.name for info in experiment.hparam_infos]
    return values, columns, [info.name.tag for info in experiment.metric_infos]


def cut_off(file: Path, bytes_left_out: int) -> None:
    """Cut off the last bytes of a file."""
    data = file.read_bytes()
    file.write_bytes(data[:-bytes_left_out])


def damage(file: Path, at: int) -> None:
    """Change one byte of a file; a negative position counts from the end."""
    data = bytearray(file.read_bytes())
    data[at] ^= 0xFF
    file.write_bytes(bytes(data))


def scalars(directory: Path) -> list[tuple[str, int, float]]:
    """The points of a run: tag, step, value."""
    return [
        (value.tag, event.step, value.tensor.float_val[0])
        for file in event_files(directory)
        for event in EventFileLoader(str(file)).Load()
        for value in event.summary.value
        if value.tensor.float_val
    ]
