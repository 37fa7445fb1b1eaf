"""The table of tags: unit, when it is logged, where its value is, and its chart.

The README and the docstring of `MFUCallback` show this table; a test compares them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

# The used share of the machine and the losses by cause; they sum to 1.
WATERFALL_PARTS = ("mfu", "unreachable", "kernels", "communication", "waiting", "data", "optimizer", "other")
PARTS_OF_SEVERAL = ("communication", "waiting")  # always 0 on a single device, where they are not logged


@dataclass(frozen=True, slots=True, kw_only=True)
class Tag:
    """One logged value.

    Attributes:
        name: Its name in every logger.
        unit: Its unit, and which devices it covers.
        when: When it is logged; for a part of the waterfall, what it means.
        attribute: The attribute of `mfu_callback.meter.metrics.Window` that is its value; None leaves it out.
        part: Which part of that value, if it has parts.
        category: The category of TensorBoard's custom scalars that shows it.
        chart: The title of its chart there, which it may share.
        in_progress_bar: Its name in the progress bar; None if it is not shown there.
    """

    name: str
    unit: str
    when: str
    attribute: str
    part: str | None = None
    category: str
    chart: str
    in_progress_bar: str | None = None


_USE, _RATE, _TIME, _MEMORY = "MFU: utilization", "MFU: throughput", "MFU: step time", "MFU: memory"
_GPU = "MFU: power and clock"
_WATERFALL, _TOTAL = "MFU: where the machine went", "MFU: totals"
CATEGORIES = (_USE, _RATE, _TIME, _WATERFALL, _MEMORY, _GPU, _TOTAL)  # in the dashboard's order
_SPREAD, _SHARES = "seconds of a step, fastest and slowest device", "shares of the machine, sum 1"

MFU = "throughput/mfu"
MFU_ACHIEVABLE = "throughput/mfu_achievable"
HFU = "throughput/hfu"
TOKENS_PER_SEC = "throughput/tokens_per_sec"
REAL_TOKENS_PER_SEC = "throughput/real_tokens_per_sec"
LOSS_TOKENS_PER_SEC = "throughput/loss_tokens_per_sec"
SAMPLES_PER_SEC = "throughput/samples_per_sec"
DEVICE_TOKENS_PER_SEC = "throughput/device/tokens_per_sec"
DEVICE_TFLOPS_PER_SEC = "throughput/device/tflops_per_sec"
STEP_TIME_SEC = "time/step_sec"
WATERFALL = {part: f"waterfall/{part}" for part in WATERFALL_PARTS}


def _tag(category: str, name: str, unit: str, when: str, attribute: str, chart: str, bar: str | None = None) -> Tag:
    return Tag(
        name=name, unit=unit, when=when, attribute=attribute, category=category, chart=chart, in_progress_bar=bar
    )


_ALL, _ONE = "1/s, all devices", "1/s, one device"
_TOKENS, _MASKS, _SAMPLES = "the batch has tokens", "attention masks mark the padding", "the batch has a tensor"
_LABELS = "the tokens have labels: those not -100"
_PEAK, _MEASURED = "fraction of the peak", "fraction of the measured peak"
_RECOMPUTED = "something is recomputed: MFU with that added"
_SEVERAL = "there are several devices"
_SINCE, _SUM = "since the job began", "all devices"
_REPORTS, _NVML = "the device reports it", "nvidia-ml-py is there"
_MEMORY_CHART, _SHORT_OF_MEMORY = "peak memory, GiB", "times that memory ran short"
_OF_WATERFALL = {
    "mfu": "MFU is known; all parts sum to 1",
    "unreachable": "what this device's best matmul needs beyond that",
    "kernels": "forward and backward below the best matmul",
    "communication": "several devices: collectives that nothing hides",
    "waiting": "several devices: what even the last one waits",
    "data": "waiting for the next batch",
    "optimizer": "gradient clipping and the optimizer",
    "other": "callbacks, logging, the rest",
}

# category, name, unit, when, attribute of the Window, chart, name in the progress bar
TAGS: tuple[Tag, ...] = (
    _tag(_RATE, TOKENS_PER_SEC, _ALL, _TOKENS, "tokens_per_sec", "tokens/s, all devices", "tokens/s"),
    _tag(_RATE, REAL_TOKENS_PER_SEC, _ALL, _MASKS, "real_tokens_per_sec", "tokens/s without the padding"),
    _tag(_RATE, LOSS_TOKENS_PER_SEC, _ALL, _LABELS, "loss_tokens_per_sec", "tokens/s that the loss is taken over"),
    _tag(_RATE, SAMPLES_PER_SEC, _ALL, _SAMPLES, "samples_per_sec", "samples/s, all devices"),
    _tag(_RATE, DEVICE_TOKENS_PER_SEC, _ONE, _TOKENS, "device_tokens_per_sec", "tokens/s, one device"),
    _tag(
        *(_RATE, DEVICE_TFLOPS_PER_SEC, "1e12 FLOP/s, one device", "FLOPs are known"),
        *("device_tflops_per_sec", "TFLOP/s, one device"),
    ),
    _tag(_USE, MFU, _PEAK, "FLOPs and the peak are known", "mfu", "MFU", "MFU"),
    _tag(
        *(_USE, MFU_ACHIEVABLE, _MEASURED, "a measured peak is known"),
        *("mfu_achievable", "MFU of the achievable peak"),
    ),
    _tag(_USE, HFU, _PEAK, _RECOMPUTED, "hfu", "HFU, with what is recomputed"),
    _tag(_TIME, STEP_TIME_SEC, "s", "always", "step_time_sec", "seconds of a step"),
    _tag(_TIME, "time/step_sec_min", "s, fastest device", _SEVERAL, "step_time_sec_min", _SPREAD),
    _tag(_TIME, "time/step_sec_max", "s, slowest device", _SEVERAL, "step_time_sec_max", _SPREAD),
    *(
        replace(_tag(_WATERFALL, name, "fraction", _OF_WATERFALL[part], "waterfall", _SHARES), part=part)
        for part, name in WATERFALL.items()
    ),
    _tag(_MEMORY, "memory/peak_gib", "GiB", _REPORTS, "peak_memory_gib", _MEMORY_CHART),
    _tag(_MEMORY, "memory/reserved_gib", "GiB", f"{_REPORTS}: what its allocator holds", "reserved_gib", _MEMORY_CHART),
    _tag(
        *(_MEMORY, "memory/device_share", "fraction", f"{_REPORTS}: that over its memory"),
        *("memory_share", "share of the device's memory"),
    ),
    _tag(
        *(_MEMORY, "memory/alloc_retries", "count, all devices", f"{_REPORTS}: full, cache was emptied"),
        *("alloc_retries", _SHORT_OF_MEMORY),
    ),
    _tag(_MEMORY, "memory/ooms", "count, all devices", f"{_REPORTS}: errors out of memory", "ooms", _SHORT_OF_MEMORY),
    _tag(
        *(_MEMORY, "memory/resident_gib", "GiB, largest process", "the device is a CPU"),
        *("resident_gib", "resident memory, GiB"),
    ),
    _tag(_GPU, "gpu/power_watts", "W, one device", _NVML, "power_watts", "power, W"),
    _tag(_GPU, "gpu/clock_share", "fraction, slowest device", f"{_NVML}: of its highest clock", "clock_share", "clock"),
    _tag(_TOTAL, "total/tokens", f"count, {_SUM}", f"{_TOKENS}: {_SINCE}", "total_tokens", f"tokens {_SINCE}"),
    _tag(_TOTAL, "total/samples", f"count, {_SUM}", f"{_SAMPLES}: {_SINCE}", "total_samples", f"samples {_SINCE}"),
    _tag(_TOTAL, "total/flops", f"FLOPs, {_SUM}", f"FLOPs are known: {_SINCE}", "total_flops", f"FLOPs {_SINCE}"),
    _tag(
        *(_TOTAL, "total/device_hours", f"h, {_SUM}", f"always: {_SINCE}"),
        *("total_device_hours", f"device-hours {_SINCE}"),
    ),
)
CUMULATIVE = frozenset(
    tag.name for tag in TAGS if tag.category == _TOTAL
)  # sums over time, whose last value is the whole

IN_PROGRESS_BAR = {tag.name: tag.in_progress_bar for tag in TAGS if tag.in_progress_bar is not None}

_OF_TRAINING = (HFU, *(WATERFALL[part] for part in (*PARTS_OF_SEVERAL, "optimizer")))
# Those of a forward pass alone, which is what validate, test and predict run.
EVALUATION_TAGS = tuple(
    tag for tag in TAGS if tag.category not in (_MEMORY, _GPU, _TOTAL) and tag.name not in _OF_TRAINING
)
