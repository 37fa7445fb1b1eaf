"""The arithmetic: MFU, the waterfall, and the logged values, as pure functions of measured totals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mfu_callback.meter.device_states import DeviceStates
from mfu_callback.meter.done import NOTHING, Done, of_all
from mfu_callback.meter.tags import PARTS_OF_SEVERAL, TAGS, Tag
from mfu_callback.meter.totals import PHASES, Totals
from mfu_callback.meter.waits import Together
from mfu_callback.tools.options import Option, above, at_least, checked, whole

_OPTIONS = {
    "tokens_per_sec": Option("must be a number of at least 0.", at_least(0)),
    "flops_per_token": Option("must be a number of at least 0.", at_least(0)),
    "peak_flops_per_sec": Option("must be above 0 and finite: the FLOP/s of one device, for example 312e12.", above(0)),
    "devices": Option("must be a whole number of at least 1.", whole(1)),
}


def model_flops_utilization(
    tokens_per_sec: float, flops_per_token: float, peak_flops_per_sec: float, devices: int = 1
) -> float:
    """Model FLOPs utilization: the model's FLOP/s over the machine's peak (PaLM, appendix B).

    Source: Chowdhery et al., 2022, https://arxiv.org/abs/2204.02311.

    Args:
        tokens_per_sec: Tokens per second over all devices.
        flops_per_token: Model FLOPs of forward and backward per token.
        peak_flops_per_sec: Dense peak of one device, in FLOP/s.
        devices: Number of devices that reached this rate together.

    Returns:
        A fraction, 0.41 and not 41.

    Raises:
        ValueError: If an argument is no number, is infinite or below 0, or the peak or the number of devices is 0.

    Example:
        >>> model_flops_utilization(100.0, 6e9, 1e12)
        0.6
    """
    given = {
        "tokens_per_sec": tokens_per_sec,
        "flops_per_token": flops_per_token,
        "peak_flops_per_sec": peak_flops_per_sec,
        "devices": devices,
    }
    of = {name: float(value) for name, value in checked(_OPTIONS, {n: _number(v) for n, v in given.items()}).items()}
    return of["tokens_per_sec"] * of["flops_per_token"] / (of["peak_flops_per_sec"] * of["devices"])


def _number(value: Any) -> Any:
    """The number in a tensor or array of one, such as those in ``callback_metrics``; anything else as it is."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


@dataclass(frozen=True, kw_only=True)  # without slots: cached properties need a dictionary
class Window(DeviceStates):
    """Rates and shares of all devices over the same steps. A figure is None if it is unknown.

    Attributes:
        ranks: The totals of each device.
        before: The waiting in the steps that are in the totals and not in their waiting step by step.
        carried: What the job had done before this run, on all devices.
    """

    ranks: tuple[Totals, ...]
    before: Together | None = None
    carried: Done = NOTHING

    @cached_property
    def together(self) -> Together:
        """The waiting of all devices in the steps that all have measured."""
        own = Together.of([rank.step_waits for rank in self.ranks], self.step_time_sec)
        return own if self.before is None else self.before + own

    @cached_property
    def pace_setter(self) -> int:
        """The rank that waits least for the others, which sets the pace; the slowest of several that wait alike."""
        return min(range(len(self.ranks)), key=lambda rank: (self.ranks[rank].waits_sec, -self.ranks[rank].seconds))

    @property
    def steps(self) -> int:
        """Number of optimizer steps, the same on all devices."""
        return int(self.ranks[0].steps)

    @property
    def tokens(self) -> int | None:
        """Tokens of all devices; None if the batch has none."""
        tokens = sum(rank.tokens for rank in self.ranks)
        return None if math.isnan(tokens) else round(tokens)

    @cached_property
    def peak_flops_per_sec(self) -> float | None:
        """The peak for MFU, in FLOP/s of one device: the mean over the devices' time; None if one is unknown."""
        return self._mean([rank.peak_flops_per_sec for rank in self.ranks])

    @property
    def achievable_flops_per_sec(self) -> float | None:
        """The measured peak, in FLOP/s of one device: the mean over the devices' time; None if one is unknown."""
        return self._mean([rank.achievable_flops_per_sec for rank in self.ranks])

    @cached_property
    def device_seconds(self) -> float:
        """Training time summed over devices."""
        return sum(rank.seconds for rank in self.ranks)

    @property
    def step_time_sec(self) -> float:
        """Mean seconds of a step."""
        return self.device_seconds / sum(rank.steps for rank in self.ranks)

    @property
    def step_time_sec_min(self) -> float | None:
        """Mean seconds of a step on the fastest of several devices."""
        return min(self._step_times) if len(self.ranks) > 1 else None

    @property
    def step_time_sec_max(self) -> float | None:
        """Mean seconds of a step on the slowest of several devices, which sets the pace."""
        return max(self._step_times) if len(self.ranks) > 1 else None

    @property
    def phases_sec(self) -> dict[str, float]:
        """Mean seconds of a step by phase; they sum to `step_time_sec`."""
        steps = sum(rank.steps for rank in self.ranks)
        return {name: sum(getattr(rank, f"{name}_sec") for rank in self.ranks) / steps for name in PHASES}

    @property
    def samples_per_sec(self) -> float | None:
        """Samples per second, all devices."""
        return self._rate([rank.samples for rank in self.ranks])

    @property
    def tokens_per_sec(self) -> float | None:
        """Tokens per second, all devices."""
        return self._rate([rank.tokens for rank in self.ranks])

    @property
    def real_tokens_per_sec(self) -> float | None:
        """Tokens per second without padding, all devices."""
        return self._rate([rank.real_tokens for rank in self.ranks])

    @property
    def loss_tokens_per_sec(self) -> float | None:
        """Tokens per second that the loss is taken over, all devices."""
        return self._rate([rank.loss_tokens for rank in self.ranks])

    @cached_property
    def done(self) -> Done:
        """What the job has done since it began, on all devices; steps that the totals leave out are included."""
        return self.carried + of_all([rank.done for rank in self.ranks])

    @property
    def total_tokens(self) -> float | None:
        """Tokens since the job began, all devices."""
        return _known(self.done.tokens)

    @property
    def total_samples(self) -> float | None:
        """Samples since the job began, all devices."""
        return _known(self.done.samples)

    @property
    def total_flops(self) -> float | None:
        """Model FLOPs since the job began, all devices."""
        return _known(self.done.flops)

    @property
    def total_device_hours(self) -> float:
        """Hours since the job began, times the devices, without those between a checkpoint and its resumption."""
        return self.done.device_sec / 3600

    @property
    def device_tokens_per_sec(self) -> float | None:
        """Tokens per second, one device."""
        return None if self.tokens_per_sec is None else self.tokens_per_sec / len(self.ranks)

    @cached_property
    def device_tflops_per_sec(self) -> float | None:
        """1e12 model FLOP/s, one device."""
        rate = self._rate([rank.flops for rank in self.ranks])
        return None if rate is None else rate / len(self.ranks) / 1e12

    @cached_property
    def mfu(self) -> float | None:
        """Model FLOPs utilization against the peak."""
        return self._share_of(self.peak_flops_per_sec)

    @property
    def mfu_achievable(self) -> float | None:
        """Model FLOPs utilization against the measured peak, which is at least what the run itself has reached."""
        share = self._share_of(self.achievable_flops_per_sec)
        return None if share is None else min(share, 1.0)  # 1 but for rounding

    @property
    def hfu(self) -> float | None:
        """Hardware FLOPs utilization: MFU with recomputed FLOPs added; None if nothing was recomputed."""
        recomputed = self._rate([rank.recomputed_flops for rank in self.ranks])
        if not recomputed or self.mfu is None or self.peak_flops_per_sec is None:
            return None
        return self.mfu + recomputed / len(self.ranks) / self.peak_flops_per_sec

    @cached_property
    def waterfall(self) -> dict[str, float] | None:
        """The share of the machine that each part used or lost, on the device that sets the pace; None without MFU."""
        pace = self.ranks[self.pace_setter]
        if self.mfu is None or self.peak_flops_per_sec is None or not pace.seconds:
            return None
        achievable = pace.peak_flops_per_sec if self.achievable_flops_per_sec is None else pace.achievable_flops_per_sec
        collectives = pace.waits_sec * self.together.share_of_collectives(self.pace_setter)
        return waterfall(
            ideal_sec=pace.flops / pace.peak_flops_per_sec,
            reachable_sec=pace.flops / achievable,
            forward_backward_sec=pace.own_sec("forward", "backward"),
            communication_sec=collectives,
            waiting_sec=pace.waits_sec - collectives,
            data_sec=pace.own_sec("data"),
            optimizer_sec=pace.own_sec("optimizer"),
            other_sec=pace.own_sec("other"),
        )

    @property
    def _step_times(self) -> list[float]:
        return [rank.seconds / rank.steps for rank in self.ranks]

    def _mean(self, rates: Sequence[float]) -> float | None:
        # Weighted by time, so that no mean is below what its devices reached.
        weights = [rank.seconds for rank in self.ranks] if self.device_seconds else [1.0] * len(rates)
        mean = sum(rate * weight for rate, weight in zip(rates, weights, strict=True)) / sum(weights)
        return None if math.isnan(mean) else mean

    def _rate(self, amounts: Sequence[float]) -> float | None:
        mean_seconds = self.device_seconds / len(self.ranks)
        rate = sum(amounts) / mean_seconds if mean_seconds > 0 else math.nan
        return None if math.isnan(rate) else rate

    def _share_of(self, peak_flops_per_sec: float | None) -> float | None:
        if self.device_tflops_per_sec is None or peak_flops_per_sec is None:
            return None
        return self.device_tflops_per_sec * 1e12 / peak_flops_per_sec


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def waterfall(
    *,
    ideal_sec: float,
    forward_backward_sec: float,
    reachable_sec: float = 0.0,
    communication_sec: float = 0.0,
    waiting_sec: float = 0.0,
    data_sec: float = 0.0,
    optimizer_sec: float = 0.0,
    other_sec: float = 0.0,
) -> dict[str, float]:
    """Split the time of one device into the used share and the losses by cause; the parts sum to 1.

    Each part times the training time is the seconds that would go if that loss alone vanished.

    Args:
        ideal_sec: What the model FLOPs would take at the peak, those of each dtype at its own.
        forward_backward_sec: Training time in the forward and backward pass, without waiting for other devices.
        reachable_sec: What the model FLOPs would take at the achievable peak; less than at the peak counts as that.
        communication_sec: What the collectives take that nothing hides.
        waiting_sec: Waiting for other devices beyond that.
        data_sec: Training time spent waiting for data.
        optimizer_sec: Training time in gradient clipping and the optimizer.
        other_sec: All other training time.

    Returns:
        `mfu_callback.meter.tags.WATERFALL_PARTS` and their shares. None is negative: where the forward and backward
        passes run faster than the peak, which then is wrong, ``mfu`` is the share of their time.

    Example:
        >>> waterfall(ideal_sec=0.5, reachable_sec=0.75, forward_backward_sec=1.0, data_sec=1.0)["unreachable"]
        0.125
    """
    used = min(ideal_sec, forward_backward_sec)
    unreachable = min(max(reachable_sec - ideal_sec, 0.0), forward_backward_sec - used)
    seconds = {
        "mfu": used,
        "unreachable": unreachable,
        "kernels": forward_backward_sec - used - unreachable,
        "communication": communication_sec,
        "waiting": waiting_sec,
        "data": data_sec,
        "optimizer": optimizer_sec,
        "other": other_sec,
    }
    whole = sum(seconds.values())
    return {part: max(sec, 0.0) / whole for part, sec in seconds.items()}


def logged_values(window: Window, tags: Sequence[Tag] = TAGS) -> dict[str, float]:
    """The known values of a window by tag name."""
    values = ((tag.name, _value(window, tag)) for tag in tags)
    return {name: value for name, value in values if value is not None}


def _value(window: Window, tag: Tag) -> float | None:
    if tag.part in PARTS_OF_SEVERAL and len(window.ranks) == 1:
        return None
    value = getattr(window, tag.attribute)
    if value is not None and tag.part is not None:
        value = value[tag.part]
    return None if value is None else float(value)
