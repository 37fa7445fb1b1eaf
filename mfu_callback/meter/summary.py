"""The figures of a whole run, kept after fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from mfu_callback.flops import FlopCount
from mfu_callback.meter.advice import advice_of
from mfu_callback.meter.circumstances import Circumstances
from mfu_callback.meter.devices import DeviceFigures, PaceSetter
from mfu_callback.meter.facts import Facts
from mfu_callback.meter.job import Job, state_of
from mfu_callback.meter.metrics import Window
from mfu_callback.meter.per_module import ModuleFigures
from mfu_callback.meter.per_operator import OperatorFigures
from mfu_callback.peaks import Peak
from mfu_callback.peaks.peak import dtype_name

_PEAKS = ("peak", "achievable", "fastest")


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The figures of a whole run, without warm-up, counting and sampled steps. A figure is None if it is unknown.

    ``job``, ``wall_time_sec`` and ``goodput`` are of all fits of a job that was resumed from checkpoints.

    Attributes:
        steps: Measured optimizer steps.
        tokens: Tokens in these steps, all devices.
        tokens_per_sec: Tokens per second, all devices.
        real_tokens_per_sec: Tokens per second without padding, all devices; needs attention masks.
        loss_tokens_per_sec: Tokens per second that the loss is taken over, all devices; needs labels.
        samples_per_sec: Samples per second, all devices.
        step_time_sec: Median seconds of a step.
        step_time_sec_min: Mean seconds of a step on the fastest of several devices.
        step_time_sec_max: Mean seconds of a step on the slowest of several devices.
        phases_sec: Mean seconds of a step by phase: data, forward, backward, optimizer, other.
        mfu: Model FLOPs utilization, a fraction of the peak.
        mfu_achievable: Model FLOPs utilization, a fraction of the measured peak.
        hfu: MFU with recomputed FLOPs added; None if nothing was recomputed.
        flops: The FLOP count of the first batch.
        conventions: How attention and the backward pass are counted; None if FLOPs are given.
        peak: The peak for MFU.
        achievable: The measured peak of the device.
        fastest: The highest peak of the device in any dtype that models are trained in, where MFU of it is less than
            four fifths of MFU; otherwise None.
        mfu_fastest: Model FLOPs utilization, a fraction of that peak; None without it.
        hints: Sentences on settings that would make the matmuls of this run at least twice as fast.
        hint_times: How many times as fast, for each of them.
        circumstances: Settings of the run that its advice takes into account; None before its end.
        dtypes: By dtype: its share of the model FLOPs, its peak in FLOP/s, the source of that; None if there is one.
        waterfall: The share of the machine that each part used or lost; sums to 1. Of several devices, that of the one
            that waits least for the others.
        devices: The figures of each of several devices; None for a single one.
        pace: The device that the others wait for; None for a single one, or if none is clearly behind.
        memory: The fullest device's peaks ``allocated_bytes``, ``reserved_bytes`` and, on a CPU, ``resident_bytes``;
            its ``share``; ``retries`` of the allocators and ``ooms`` of all devices; this device's ``total_bytes`` and
            this process's ``swapped_bytes``. None if nothing is known; what is unknown of it is None.
        gpu: Power, clocks and what held them down (`mfu_callback.meter.gpu_state.figures_of`) of this process's device,
            and the ``slowest_clock_share`` of all devices; None without NVML.
        wall_time_sec: Seconds since the job's first fit began, by part (`mfu_callback.meter.ledger.PARTS`).
        job: What the job has done since then, steps that all other figures leave out included; None before the end.
        steps_by_part: Number of this process's steps by what they were: "warmup", and after it "training" (measured),
            "counting", "sampling" and "rest".
        flops_error: The largest relative error of FLOPs that are estimates: told by a law from those of other shapes,
            or the mean of batches of one shape that do unequal work; 1 if it is not known, None without any.
        modules: FLOPs, time and MFU by module, of this process; None without ``modules=True``.
        operators: Calls, time, FLOPs and bytes by operator, of this process; None without ``operators=True``.
        kernels: What the part "kernels" of the waterfall consists of (matmuls, attention, memory, transfers, gaps), as
            shares of the machine that sum to it; None without ``operators=True``.
    """

    steps: int
    tokens: int | None = None
    tokens_per_sec: float | None = None
    real_tokens_per_sec: float | None = None
    loss_tokens_per_sec: float | None = None
    samples_per_sec: float | None = None
    step_time_sec: float | None = None
    step_time_sec_min: float | None = None
    step_time_sec_max: float | None = None
    phases_sec: dict[str, float] | None = None
    mfu: float | None = None
    mfu_achievable: float | None = None
    hfu: float | None = None
    flops: FlopCount | None = None
    conventions: str | None = None
    peak: Peak | None = None
    achievable: Peak | None = None
    fastest: Peak | None = None
    mfu_fastest: float | None = None
    hints: tuple[str, ...] = ()
    hint_times: tuple[float, ...] = ()
    circumstances: Circumstances | None = None
    dtypes: dict[str, dict[str, Any]] | None = None
    waterfall: dict[str, float] | None = None
    devices: tuple[DeviceFigures, ...] | None = None
    pace: PaceSetter | None = None
    memory: dict[str, Any] | None = None
    gpu: dict[str, Any] | None = None
    wall_time_sec: Mapping[str, float] | None = None
    job: Job | None = None
    steps_by_part: dict[str, int] | None = None
    flops_error: float | None = None
    modules: tuple[ModuleFigures, ...] | None = None
    operators: tuple[OperatorFigures, ...] | None = None
    kernels: dict[str, float] | None = None

    @classmethod
    def of(cls, window: Window, **known: Any) -> Summary:
        """The summary of a whole run.

        Args:
            window: The run's totals; fields of the same name are filled from it.
            known: The other fields; these override the window's figures.
        """
        figures = {field.name: getattr(window, field.name) for field in fields(cls) if hasattr(Window, field.name)}
        fastest, tflops_per_sec = known.get("fastest"), window.device_tflops_per_sec
        if fastest is not None and tflops_per_sec is not None:
            figures["mfu_fastest"] = tflops_per_sec * 1e12 / fastest.flops_per_sec
        return cls(**figures | known)

    @property
    def goodput(self) -> float | None:
        """The share of the wall time since the job's first fit began that was measured training; None if unknown."""
        if self.wall_time_sec is None or not sum(self.wall_time_sec.values()):
            return None
        return self.wall_time_sec["training"] / sum(self.wall_time_sec.values())

    @property
    def advice(self) -> str | None:
        """What to change, one sentence a line, the largest loss first; None if there is nothing to say."""
        return advice_of(Facts.of(self))

    def as_dict(self) -> dict[str, Any]:
        """All figures as plain data for JSON, with FLOPs per module and per dtype."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        nested: dict[str, Any] = {name: asdict(plain[name]) for name in ("flops", *_PEAKS) if plain[name] is not None}
        for name in set(_PEAKS) & set(nested):
            nested[name]["dtype"] = dtype_name(nested[name]["dtype"])
        nested["hints"], nested["hint_times"] = list(self.hints), list(self.hint_times)
        nested["circumstances"] = None if self.circumstances is None else asdict(self.circumstances)
        nested["job"] = None if self.job is None else state_of(self.job)
        nested["pace"] = None if self.pace is None else asdict(self.pace)
        nested["devices"] = None if self.devices is None else [asdict(device) for device in self.devices]
        if self.modules is not None:
            nested["modules"] = [asdict(figures) for figures in self.modules]
        if self.operators is not None:
            nested["operators"] = [asdict(figures) for figures in self.operators]
        return plain | nested | {"goodput": self.goodput, "advice": self.advice}
