"""Reads a run's record (`mfu_callback.board.record`) from JSON and checks it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from mfu_callback.logs.printable import printable, printable_all

_Check = Callable[[Any], bool]
_LARGEST = 1e300  # an integer may have any size, and then is no float


def record_from(text: str | bytes) -> Mapping[str, Any] | None:
    """A record from its JSON; None if the text is not a valid record.

    Args:
        text: The JSON of a file or of an event, which anyone may have written.
    """
    try:
        record = json.loads(text, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError):
        return None
    return _printable(record) if _is_record(record) else None


def _printable(record: Mapping[str, Any]) -> dict[str, Any]:
    advice = record.get("advice")  # a sentence a line
    lines = None if advice is None else "\n".join(map(printable, advice.split("\n")))
    known: dict[str, Any] = printable_all(record)
    return known if lines is None else known | {"advice": lines}


def _finite(text: str) -> float:
    """The number; no browser reads JSON with another one in it.

    Raises:
        ValueError: If it is not finite: NaN, Infinity, 1e999.
    """
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not finite")
    return number


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_number, value.values()))


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _maybe(check: _Check) -> _Check:
    return lambda value: value is None or check(value)


def _fields(required: Mapping[str, _Check], **optional: _Check) -> _Check:
    """A check for a dict that has all required fields and whose required and optional fields pass their checks."""

    def check(value: Any) -> bool:
        if not isinstance(value, dict) or not required.keys() <= value.keys():
            return False
        known = {**required, **{name: _maybe(kind) for name, kind in optional.items()}}
        return all(kind(value[name]) for name, kind in known.items() if name in value)

    return check


def _list_of(check: _Check) -> _Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


_PEAK = _fields(
    {"flops_per_sec": _is_number, "name": _is_text, "dtype": _is_text, "source": _is_text},
    bandwidth_bytes_per_sec=_is_number,
)
_MODULE_TIME = _fields(
    {"name": _is_text, "modules": _is_number, "forward_sec": _is_number, "backward_sec": _is_number}
    | {"share": _is_number, "flops": _maybe(_is_number), "mfu": _maybe(_is_number)}
)
_DEVICE = _fields(
    {"rank": _is_number, "host": _is_text, "step_sec": _is_number, "phases_sec": _numbers, "waits_sec": _is_number}
)
_PACE = _fields(
    {"rank": _is_number, "host": _is_text, "phase": _is_text, "is_constant": _is_bool}
    | {"behind_sec": _is_number, "late_share": _is_number}
)
_OPERATOR = _fields(
    {"name": _is_text, "kind": _is_text, "phase": _is_text, "calls": _is_number, "sec": _is_number}
    | {"share": _is_number},
    **dict.fromkeys(("flops", "bytes", "roofline"), _is_number),
)
_MEMORY = _fields(
    {},
    **dict.fromkeys(("allocated_bytes", "reserved_bytes", "resident_bytes", "swapped_bytes"), _is_number),
    **dict.fromkeys(("total_bytes", "share", "retries", "ooms"), _is_number),
)
_GPU = _fields(
    {},
    **dict.fromkeys(("readings", "power_watts", "power_limit_watts", "clock_mhz", "max_clock_mhz"), _is_number),
    **dict.fromkeys(("clock_share", "clock_share_min", "slowest_clock_share", "temperature_celsius"), _is_number),
    throttle_reasons=_numbers,
)
_SWEEP_POINT = _fields(
    {"size": _is_number, "samples_per_sec": _is_number},
    tokens_per_sec=_is_number,
    mfu=_is_number,
    peak_bytes=_is_number,
)
_FINDER = _fields(
    {"batch_size": _is_number, "trials": _list_of(_fields({"size": _is_number}, peak_bytes=_is_number))},
    sweep=_list_of(_SWEEP_POINT),
    limit=_is_text,
)
_JOB = _fields(
    {},
    **dict.fromkeys(("version", "began_at", "at", "restarts", "steps", "device_hours"), _is_number),
    **dict.fromkeys(("samples", "tokens", "real_tokens", "loss_tokens", "flops"), _is_number),
    wall_time_sec=_numbers,
)
_RUN = _fields(
    {},
    **dict.fromkeys(("model", "device", "precision", "strategy", "counter"), _is_text),
    **dict.fromkeys(("parameters", "parameter_bytes", "devices", "batch_size", "batch_flops"), _is_number),
    versions=lambda value: isinstance(value, dict),
    modules=_list_of(_fields({"name": _is_text, "modules": _is_number, "flops": _is_number})),
    finder=_FINDER,
)
_is_record = _fields(
    {},
    **dict.fromkeys(("steps", "mfu", "mfu_achievable", "mfu_fastest", "hfu", "goodput", "flops_error"), _is_number),
    **dict.fromkeys(("tokens_per_sec", "real_tokens_per_sec", "loss_tokens_per_sec", "samples_per_sec"), _is_number),
    **dict.fromkeys(("step_time_sec", "step_time_sec_min", "step_time_sec_max"), _is_number),
    **dict.fromkeys(("waterfall", "kernels", "phases_sec", "wall_time_sec", "steps_by_part"), _numbers),
    **dict.fromkeys(("conventions", "advice"), _is_text),
    **dict.fromkeys(("peak", "achievable", "fastest"), _PEAK),
    hints=_texts,
    flops=_fields({"forward": _is_number}, uncounted=_texts, rule_errors=_texts),
    modules=_list_of(_MODULE_TIME),
    devices=_list_of(_DEVICE),
    pace=_PACE,
    job=_JOB,
    operators=_list_of(_OPERATOR),
    memory=_MEMORY,
    gpu=_GPU,
    run=_RUN,
)
