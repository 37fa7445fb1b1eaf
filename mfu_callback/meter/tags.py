"""The table of what is logged: every tag with its unit, where its value is, and the chart that shows it."""

from __future__ import annotations

from dataclasses import dataclass

# Of the machine: what was used, and where the rest went. They sum to 1.
WATERFALL_PARTS = ("mfu", "data", "optimizer", "other", "kernels", "unreachable")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tag:
    """One logged value.

    Attributes:
        name: The name under which every logger gets it.
        unit: Its unit.
        attribute: Of `mfu_callback.meter.metrics.Window`, that is its value; None there leaves it out.
        part: Which part of that value, if it has parts.
        category: Of the dashboard, under which TensorBoard's custom scalars show it.
        chart: The title of its chart there, which it may share.
        in_progress_bar: The name under which the progress bar shows it; None for none.
    """

    name: str
    unit: str
    attribute: str
    part: str | None = None
    category: str
    chart: str
    in_progress_bar: str | None = None


_USE, _RATE, _TIME, _MEMORY = "MFU: utilization", "MFU: throughput", "MFU: step time", "MFU: memory"
_WATERFALL = "MFU: where the machine went"
CATEGORIES = (_USE, _RATE, _TIME, _WATERFALL, _MEMORY)  # in the dashboard's order
_SPREAD = "seconds of a step, fastest and slowest device"

MFU = "throughput/mfu"
MFU_ACHIEVABLE = "throughput/mfu_achievable"
HFU = "throughput/hfu"
TOKENS_PER_SEC = "throughput/tokens_per_sec"
REAL_TOKENS_PER_SEC = "throughput/real_tokens_per_sec"
SAMPLES_PER_SEC = "throughput/samples_per_sec"
DEVICE_TFLOPS_PER_SEC = "throughput/device/tflops_per_sec"
STEP_TIME_SEC = "time/step_sec"
WATERFALL = {part: f"waterfall/{part}" for part in WATERFALL_PARTS}


def _rate(name: str, unit: str, attribute: str, chart: str, in_progress_bar: str | None = None) -> Tag:
    return Tag(name=name, unit=unit, attribute=attribute, category=_RATE, chart=chart, in_progress_bar=in_progress_bar)


def _time(name: str, attribute: str, chart: str) -> Tag:
    return Tag(name=name, unit="s", attribute=attribute, category=_TIME, chart=chart)


TAGS: tuple[Tag, ...] = (
    _rate(TOKENS_PER_SEC, "1/s", "tokens_per_sec", "tokens/s, all devices", "tokens/s"),
    _rate(REAL_TOKENS_PER_SEC, "1/s", "real_tokens_per_sec", "tokens/s without the padding"),
    _rate(SAMPLES_PER_SEC, "1/s", "samples_per_sec", "samples/s, all devices"),
    _rate("throughput/device/tokens_per_sec", "1/s", "device_tokens_per_sec", "tokens/s, one device"),
    _rate(DEVICE_TFLOPS_PER_SEC, "1e12 FLOP/s", "device_tflops_per_sec", "TFLOP/s, one device"),
    Tag(name=MFU, unit="fraction of peak", attribute="mfu", category=_USE, chart="MFU", in_progress_bar="MFU"),
    Tag(
        name=MFU_ACHIEVABLE,
        unit="fraction of the measured peak",
        attribute="mfu_achievable",
        category=_USE,
        chart="MFU of the achievable peak",
    ),
    Tag(name=HFU, unit="fraction of peak", attribute="hfu", category=_USE, chart="HFU, with what is recomputed"),
    _time(STEP_TIME_SEC, "step_time_sec", "seconds of a step"),
    _time("time/step_sec_min", "step_time_sec_min", _SPREAD),
    _time("time/step_sec_max", "step_time_sec_max", _SPREAD),
    *(
        Tag(
            name=name,
            unit="fraction",
            attribute="waterfall",
            part=part,
            category=_WATERFALL,
            chart="shares of the machine, sum 1",
        )
        for part, name in WATERFALL.items()
    ),
    Tag(name="memory/peak_gib", unit="GiB", attribute="peak_memory_gib", category=_MEMORY, chart="peak memory, GiB"),
)

IN_PROGRESS_BAR = {tag.name: tag.in_progress_bar for tag in TAGS if tag.in_progress_bar is not None}
