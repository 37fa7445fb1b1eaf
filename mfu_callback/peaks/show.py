"""The tables and the JSON that the command prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from mfu_callback.peaks.peak import Peak, dtype_name
from mfu_callback.peaks.survey import DTYPES, Surveyed, table_rates
from mfu_callback.peaks.tables.device import Device, Rate

_RATES = (*DTYPES, "int8")
_HEADS = {"float64": "fp64", "float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float8": "fp8"}
DERIVED = "* derived: units x boost clock x FLOPs per clock of the architecture's whitepaper"


def this_machine_table(found: Sequence[Surveyed]) -> Table:
    """This machine's devices: the datasheet peak, the measured peak, and their ratio."""
    table = Table(title="TFLOP/s of this machine's devices", title_justify="left")
    for head in ("device", "dtype"):
        table.add_column(head)
    for head in ("datasheet", "measured", "measured over datasheet"):
        table.add_column(head, justify="right")
    for one in found:
        ratio = "-" if one.ratio is None else f"{one.ratio:.3f}"
        table.add_row(Text(_description(one)), one.dtype, _tflops(one.datasheet), _tflops(one.measured), ratio)
    return table


def sources(found: Sequence[Surveyed]) -> list[str]:
    """One line for each figure: its source, or why it is missing."""
    return [f"{one.device} {one.dtype}: {source}" for one in found for source in _sources(one)]


def whole_table(devices: Sequence[Device]) -> Table:
    """All rows of the table with their rates. The last column is the number of the source in `whole_sources`."""
    table = Table(title="Dense peaks in TFLOP/s (int8: TOPS)", caption=DERIVED, padding=(0, 0, 0, 1))
    table.title_justify = table.caption_justify = "left"
    table.add_column("device", no_wrap=True)
    for head in (*(_HEADS.get(name, name) for name in _RATES), "GB", "GB/s", "[ ]"):
        table.add_column(Text(head), justify="right", no_wrap=True)
    numbers = _numbers_of_sources(devices)
    for device in devices:
        rates = table_rates(device)
        cells = [_rate(rates.get(name)) for name in _RATES]
        cells += [_amount(device.memory_gb), _amount(device.bandwidth_gb_per_sec), str(numbers[device.source])]
        table.add_row(Text(device.name), *cells)
    return table


def whole_sources(devices: Sequence[Device]) -> list[str]:
    """One line for each source: first the numbered sources of the rows, then those of the architectures."""
    lines = [f"[{number}] {source}" for source, number in _numbers_of_sources(devices).items()]
    architectures = {device.architecture.name: device.architecture for device in devices if device.architecture}
    return lines + [f"{name}: {one.source}" for name, one in architectures.items()]


def _numbers_of_sources(devices: Sequence[Device]) -> dict[str, int]:
    sources = dict.fromkeys(device.source for device in devices)
    return {source: number for number, source in enumerate(sources, start=1)}


def this_machine_json(found: Sequence[Surveyed]) -> list[dict[str, Any]]:
    """The content of `this_machine_table` and `sources` as plain data; rates in FLOP/s."""
    return [
        {
            "device": one.device,
            "name": one.name,
            "row": None if one.row is None else one.row.name,
            "why_no_row": one.why_no_row,
            "dtype": one.dtype,
            "datasheet": _plain(one.datasheet),
            "measured": _plain(one.measured),
            "measured_over_datasheet": one.ratio,
            "error": one.error,
        }
        for one in found
    ]


def whole_json(devices: Sequence[Device]) -> list[dict[str, Any]]:
    """The table as plain data, in the vendors' units: TFLOP/s, GB and GB/s."""
    return [
        {
            "name": device.name,
            "reported": list(device.reported),
            "rates": {name: asdict(rate) for name, rate in table_rates(device).items()},
            "memory_gb": device.memory_gb,
            "bandwidth_gb_per_sec": device.bandwidth_gb_per_sec,
            "source": device.source,
        }
        for device in devices
    ]


def _description(one: Surveyed) -> str:
    lines = [f"{one.device}: {one.name}"]
    if one.row is not None:
        lines.append(f"row: {one.row.name}")
        amounts = ((one.row.memory_gb, "GB"), (one.row.bandwidth_gb_per_sec, "GB/s"))
        lines += [f"{_amount(amount)} {unit}" for amount, unit in amounts if amount is not None]
    return "\n".join(lines)


def _sources(one: Surveyed) -> list[str]:
    lines = [peak.source for peak in (one.datasheet, one.measured) if peak is not None]
    lines += [] if one.why_no_row is None else [f"no datasheet: {one.why_no_row}"]
    return lines + ([] if one.error is None else [f"not measured: {one.error}"])


def _plain(peak: Peak | None) -> dict[str, Any] | None:
    return None if peak is None else asdict(peak) | {"dtype": dtype_name(peak.dtype), "kind": peak.kind}


def _tflops(peak: Peak | None) -> str:
    return "-" if peak is None else str(peak).replace(" TFLOP/s", "")


def _rate(rate: Rate | None) -> str:
    if rate is None:
        return "-"
    return f"{rate.tflops_per_sec:.4g}" + ("*" if rate.kind == "derived" else "")


def _amount(amount: float | None) -> str:
    return "-" if amount is None else f"{amount:,g}"
