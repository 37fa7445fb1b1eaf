"""What the tab and the page are given of a run: never more than they can show."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mfu_callback.logs.run_log import RunLog, Series
from mfu_callback.meter.tags import PARTS_OF_SEVERAL, STEP_TIME_SEC, WATERFALL
from mfu_callback.report.page.views import details_view, run_view, waterfall_view
from tests.helpers.records import operator_row, record_of_several, several_devices


def details_of(**record: Any) -> dict[str, Any]:
    return details_view(RunLog(name="run", record={"steps": 3} | record))


def test_what_is_shown_of_several_devices() -> None:
    view = details_of(**record_of_several(devices=2))
    assert view["devices"][1] == {
        **{"rank": 1, "name": "rank 1 on node"},
        "seconds": {"data": 0.05, "forward": 0.02, "backward": 0.02, "optimizer": 0.01, "other": 0.0, "waits": 0.0},
    }
    assert (view["slowest"], view["number_of"]) == (1, {"devices": 2, "operators": 3})
    assert view["pace"].startswith("Rank 1 on node sets the pace: the others wait 40 ms a step for it.")
    assert view["step_sec"] == 0.1
    assert view["facts"] == [("memory", "1 GiB resident of 16 GiB (6%)")]


def test_of_thousands_of_devices_those_that_wait_least_are_shown() -> None:
    several = several_devices(5000)
    for device in several["devices"][4000:4070]:
        device["waits_sec"] = 0.03
    several["devices"][1]["waits_sec"] = 1.0  # marked in any case
    view = details_of(**several, operators=[operator_row(f"op{number}", 0.1) for number in range(3000)])
    assert [device["rank"] for device in view["devices"]] == [1, *range(4000, 4063)]
    assert view["number_of"] == {"devices": 5000, "operators": 3000}
    assert len(view["operators"]) == 100
    assert len(json.dumps(view)) < 50_000


def test_what_is_unknown_is_none() -> None:
    assert details_of() == {
        **dict.fromkeys(("waterfall", "kernels", "step_sec", "devices", "operators", "slowest", "pace")),
        **{"number_of": {"devices": 0, "operators": 0}, "facts": []},
    }


def points(**values: float) -> dict[str, Series]:
    return {
        WATERFALL[part]: Series(steps=[1, 2], wall_times=[1.0, 2.0], values=[value] * 2)
        for part, value in values.items()
    }


OLD = {"mfu": 0.4, "data": 0.1, "optimizer": 0.1, "other": 0.1, "kernels": 0.2, "unreachable": 0.1}


def test_the_waterfall_of_a_run_without_the_parts_of_several_devices() -> None:
    view = waterfall_view(points(**OLD))
    assert list(view["parts"]) == [part for part in WATERFALL if part not in PARTS_OF_SEVERAL]
    assert view["steps"] == [1, 2]
    run = RunLog(name="run", scalars=points(**OLD) | {STEP_TIME_SEC: Series(steps=[1, 2], values=[0.1, 0.1])})
    assert run_view(run)["figures"]["waterfall"] == pytest.approx(OLD | {"communication": 0.0, "waiting": 0.0})
    assert details_view(run)["step_sec"] == 0.1


def test_parts_of_several_devices_that_came_later_were_none_before() -> None:
    """A run that goes on with more devices than it began with."""
    later = {WATERFALL["waiting"]: Series(steps=[2], wall_times=[2.0], values=[0.3])}
    view = waterfall_view(points(**OLD) | later)
    assert (view["steps"], view["wall_times"]) == ([1, 2], [1.0, 2.0])
    assert view["parts"]["waiting"] == [0.0, 0.3]
    assert "communication" not in view["parts"]
