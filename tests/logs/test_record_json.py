"""Which JSON is a record: anyone may have written it."""

from __future__ import annotations

import json

import pytest

from mfu_callback.logs.record_json import record_from
from tests.helpers.records import record_of_several


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[1]",
        b'"text"',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"mfu": "high"}',
        b'{"mfu": true}',
        b'{"peak": 3}',
        b'{"peak": {"flops_per_sec": "1", "name": "x", "source": "y"}}',
        b'{"peak": {"flops_per_sec": 1}}',
        b'{"peak": {"flops_per_sec": 1, "name": "x", "source": "y"}}',
        b'{"run": []}',
        b'{"run": {"modules": [{"name": 1, "modules": 1, "flops": 1}]}}',
        b'{"run": {"finder": {"batch_size": 1}}}',
        b'{"waterfall": {"mfu": null}}',
        b'{"flops": {"forward": 1, "uncounted": "all"}}',
        b'{"modules": [{}]}',
        b'{"advice": 3}',
        b'{"kernels": {"gaps": null}}',
        b'{"devices": {}}',
        b'{"devices": [{"rank": 0, "host": "a", "step_sec": 1, "waits_sec": 0}]}',
        b'{"devices": [{"rank": 0, "host": "a", "step_sec": 1, "waits_sec": 0, "phases_sec": {"data": "1"}}]}',
        b'{"pace": {"rank": 1}}',
        b'{"pace": {"rank": 1, "host": null, "phase": "data", "behind_sec": 1, "late_share": 1, "is_constant": true}}',
        b'{"pace": {"rank": 1, "host": "a", "phase": "data", "behind_sec": 1, "late_share": 1, "is_constant": 1}}',
        b'{"operators": [{"name": "mm"}]}',
        b'{"operators": [{"name": 1, "kind": "", "phase": "", "calls": 1, "sec": 1, "share": 1}]}',
        b'{"operators": [{"name": "", "kind": "", "phase": "", "calls": 1, "sec": 1, "share": 1, "flops": "1"}]}',
        b'{"memory": {"share": "half"}}',
        b'{"gpu": {"throttle_reasons": {"power cap": null}}}',
        b'{"mfu": NaN}',
        b'{"mfu": 1e999}',
        b'{"what a later version may add": -Infinity}',
        b'{"mfu": 1' + b"0" * 400 + b"}",
    ],
)
def test_what_is_no_record_is_none(text: bytes) -> None:
    assert record_from(text) is None


def test_a_record_with_all_of_several_devices_is_one() -> None:
    record = record_of_several()
    record["operators"][0]["flops"] = None
    record["gpu"] = {"power_watts": 500.0, "clock_mhz": None, "throttle_reasons": {"power cap": 0.5}}
    assert record_from(json.dumps(record)) == record
