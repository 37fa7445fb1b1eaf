"""What is said of devices: the slow one, memory, power and clocks."""

from __future__ import annotations

from typing import Any

import pytest

from mfu_callback.report.devices import gpu_text, late_text, memory_text, pace_sentence, slowest_text

PACE: dict[str, Any] = {
    **{"rank": 1, "host": "node7", "phase": "data", "behind_sec": 0.0404, "late_share": 1.0, "is_constant": True},
}
NOW_AND_THEN = PACE | {"host": "", "behind_sec": 0.0052, "late_share": 0.12, "is_constant": False}
GIB = 2**30


def test_the_device_that_the_others_wait_for() -> None:
    assert slowest_text(PACE) == "rank 1 on node7: 40 ms a step later than the others, in data, in all steps"
    assert slowest_text(NOW_AND_THEN) == "rank 1: 5.2 ms a step later than the others, in data, in 12 % of the steps"
    assert late_text(PACE) == "rank 1 is 40 ms a step late in data"


def test_whether_it_is_slow_all_the_time_or_now_and_then() -> None:
    assert pace_sentence(PACE) == (
        "Rank 1 on node7 sets the pace: the others wait 40 ms a step for it. It takes longer in data, in all steps:"
        " it is slow all the time."
    )
    said = pace_sentence(NOW_AND_THEN)
    assert said is not None
    assert said.endswith("in 12 % of the steps: it is slow now and then.")


def test_where_no_device_is_late_nothing_is_said() -> None:
    assert slowest_text(None) is late_text(None) is pace_sentence(None) is None


@pytest.mark.parametrize(
    ("memory", "text"),
    [
        (None, None),
        ({}, None),
        ({"resident_bytes": 3 * GIB, "total_bytes": 15 * GIB, "share": 0.2}, "3 GiB resident of 15 GiB (20%)"),
        (
            {"allocated_bytes": 30 * GIB, "reserved_bytes": 40 * GIB, "total_bytes": 80 * GIB, "share": 0.5}
            | {"retries": 0, "ooms": 0},
            "30 GiB allocated, 40 GiB reserved of 80 GiB (50%)",
        ),
        (
            {"reserved_bytes": 79 * GIB, "retries": 1234, "ooms": 2, "resident_bytes": None},
            "79 GiB reserved, 1,234 allocator retries, 2 errors out of memory",
        ),
        ({"resident_bytes": GIB, "swapped_bytes": GIB // 2}, "1 GiB resident, 0.5 GiB swapped out"),
        ({"resident_bytes": GIB, "swapped_bytes": 4096}, "1 GiB resident"),
    ],
)
def test_how_full_the_memory_was_and_what_came_of_it(memory: dict[str, Any] | None, text: str | None) -> None:
    assert memory_text(memory) == text


def test_power_temperature_and_clock() -> None:
    gpu = {"power_watts": 512.3, "power_limit_watts": 700.0, "temperature_celsius": 71}
    clock = {"clock_mhz": 1410, "max_clock_mhz": 1980, "throttle_reasons": {"power cap": 0.8}}
    assert gpu_text(gpu) == "512 W of 700 W, 71 °C at most"
    assert gpu_text(clock) == "the clock was 1,410 of 1,980 MHz on average (power cap in 80 % of the readings)"
    assert gpu_text({"power_watts": 512.3}) == "512 W"
    assert gpu_text({}) is gpu_text(None) is None
