"""What is said of the devices of a run: which one is slow, how full its memory was, and what held its clock down."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mfu_callback.meter.gpu_state import clock_fact
from mfu_callback.meter.sentences import time

_Get = Callable[[str], Any]
_ALWAYS = 0.995  # late in at least this share of the steps
_GIB = 2**30
_NEARLY_NOTHING = 1e-3  # of the memory: swapped out since it is never used


def name_of(device: Mapping[str, Any]) -> str:
    """A device by its rank and, if it is known, its host: "rank 1 on node7".

    Args:
        device: Figures of one of several devices, or of the pace setter, as plain data.
    """
    return f"rank {device['rank']} on {device['host']}" if device.get("host") else f"rank {device['rank']}"


def slowest_text(pace: Mapping[str, Any] | None) -> str | None:
    """The device that the others wait for, as the value of a row; None if there is none.

    Args:
        pace: `mfu_callback.meter.devices.PaceSetter` as plain data.

    Example:
        >>> slowest_text({"rank": 1, "host": "a", "phase": "data", "behind_sec": 0.04, "late_share": 1.0})
        'rank 1 on a: 40 ms a step later than the others, in data, in all steps'
    """
    if not pace:
        return None
    later = f"{time(pace['behind_sec'])} a step later than the others"
    return f"{name_of(pace)}: {later}, in {pace['phase']}, in {_how_often(pace)}"


def late_text(pace: Mapping[str, Any] | None) -> str | None:
    """The same, short: "rank 1 is 40 ms a step late in data"; None if there is none."""
    return f"rank {pace['rank']} is {time(pace['behind_sec'])} a step late in {pace['phase']}" if pace else None


def pace_sentence(pace: Mapping[str, Any] | None) -> str | None:
    """The same as sentences, which say whether that device is slow all the time; None if there is none."""
    if not pace:
        return None
    name = name_of(pace)
    kind = "slow all the time" if pace["is_constant"] else "slow now and then"
    return (
        f"R{name[1:]} sets the pace: the others wait {time(pace['behind_sec'])} a step for it. It takes longer in"
        f" {pace['phase']}, in {_how_often(pace)}: it is {kind}."
    )


def memory_text(memory: Mapping[str, Any] | None) -> str | None:
    """How full the memory was, and what came of it; None if nothing is known.

    Args:
        memory: The field of that name of `mfu_callback.meter.summary.Summary`.
    """
    get: _Get = (memory or {}).get
    sizes = [
        f"{get(f'{kind}_bytes') / _GIB:.3g} GiB {kind}"
        for kind in ("allocated", "reserved", "resident")
        if get(f"{kind}_bytes")
    ]
    if sizes and get("total_bytes"):
        share = f" ({get('share'):.0%})" if get("share") is not None else ""
        sizes[-1] += f" of {get('total_bytes') / _GIB:.3g} GiB{share}"
    return ", ".join([*sizes, *_short_of_memory(memory or {})]) or None


def _short_of_memory(memory: Mapping[str, Any]) -> list[str]:
    retries, ooms, swapped = (memory.get(name) or 0 for name in ("retries", "ooms", "swapped_bytes"))
    is_swapped = swapped > _NEARLY_NOTHING * (memory.get("resident_bytes") or 0)
    return [
        *([f"{retries:,.0f} allocator retries"] if retries else []),
        *([f"{ooms:,.0f} errors out of memory"] if ooms else []),
        *([f"{swapped / _GIB:.3g} GiB swapped out"] if is_swapped else []),
    ]


def gpu_text(gpu: Mapping[str, Any] | None) -> str | None:
    """Power, temperature and clock of the GPU; None if nothing is known.

    Args:
        gpu: The field of that name of `mfu_callback.meter.summary.Summary`.
    """
    get: _Get = (gpu or {}).get
    power, limit, celsius = get("power_watts"), get("power_limit_watts"), get("temperature_celsius")
    texts = (
        None if power is None else f"{power:.0f} W{'' if limit is None else f' of {limit:.0f} W'}",
        None if celsius is None else f"{celsius:.0f} °C at most",
        clock_fact(gpu),
    )
    return ", ".join(text for text in texts if text is not None) or None


def _how_often(pace: Mapping[str, Any]) -> str:
    share = pace["late_share"]
    return "all steps" if share >= _ALWAYS else f"{100 * share:.0f} % of the steps"
