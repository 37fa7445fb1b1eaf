"""The arithmetic: MFU, the waterfall, and the logged values, as pure functions of measured totals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from mfu_callback.meter.tags import TAGS, Tag
from mfu_callback.meter.totals import Totals


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
        ValueError: If the peak or the number of devices is not positive.

    Example:
        >>> model_flops_utilization(100.0, 6e9, 1e12)
        0.6
    """
    if peak_flops_per_sec <= 0 or devices < 1:
        raise ValueError(
            f"peak_flops_per_sec must be above 0 and devices at least 1; got {peak_flops_per_sec} and {devices}."
        )
    return tokens_per_sec * flops_per_token / (peak_flops_per_sec * devices)


@dataclass(frozen=True, kw_only=True)  # without slots: cached properties need a dictionary
class Window:
    """Rates and shares of all devices over the same steps. A figure is None if it is unknown.

    Attributes:
        ranks: The totals of each device.
    """

    ranks: tuple[Totals, ...]

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
        names = ("data", "forward", "backward", "optimizer", "other")
        steps = sum(rank.steps for rank in self.ranks)
        return {name: sum(getattr(rank, f"{name}_sec") for rank in self.ranks) / steps for name in names}

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

    @property
    def peak_memory_gib(self) -> float | None:
        """Peak memory of the device that used most, in GiB."""
        known = [rank.peak_memory_bytes for rank in self.ranks if not math.isnan(rank.peak_memory_bytes)]
        return max(known) / 2**30 if known else None

    @cached_property
    def waterfall(self) -> dict[str, float] | None:
        """The share of the machine that each part used or lost; None if MFU is unknown."""
        if self.mfu is None or self.peak_flops_per_sec is None:
            return None
        achievable = self.achievable_flops_per_sec or self.peak_flops_per_sec
        return waterfall(
            data_sec=sum(rank.data_sec for rank in self.ranks),
            forward_backward_sec=sum(rank.forward_sec + rank.backward_sec for rank in self.ranks),
            optimizer_sec=sum(rank.optimizer_sec for rank in self.ranks),
            other_sec=sum(rank.other_sec for rank in self.ranks),
            mfu=self.mfu,
            achievable_share=achievable / self.peak_flops_per_sec,
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


def waterfall(
    *,
    data_sec: float,
    forward_backward_sec: float,
    optimizer_sec: float,
    other_sec: float,
    mfu: float,
    achievable_share: float = 1.0,
) -> dict[str, float]:
    """Split the peak into the used share and the losses by cause; the parts sum to 1.

    Args:
        data_sec: Training time spent waiting for data, in seconds.
        forward_backward_sec: Training time in the forward and backward pass, in seconds.
        optimizer_sec: Training time in gradient clipping and the optimizer, in seconds.
        other_sec: All other training time, in seconds.
        mfu: Model FLOPs utilization, a fraction of the peak.
        achievable_share: The achievable peak over the peak; 1 if it was not measured. Above 1, where the peak was
            given and is too low, it counts as 1.

    Returns:
        ``mfu``, ``data``, ``optimizer``, ``other``; ``kernels``, forward and backward below the achievable rate; and
        ``unreachable``, the share of the peak that no matmul reaches on this device. None is negative: where the
        forward and backward passes run faster than the peak, which then is wrong, ``mfu`` is the share of their time.
    """
    total = data_sec + forward_backward_sec + optimizer_sec + other_sec
    used = min(mfu, forward_backward_sec / total)
    unreachable = forward_backward_sec / total * max(1 - achievable_share, 0.0)
    unreachable = min(unreachable, forward_backward_sec / total - used)
    return {
        "mfu": used,
        "data": data_sec / total,
        "optimizer": optimizer_sec / total,
        "other": other_sec / total,
        "kernels": forward_backward_sec / total - used - unreachable,
        "unreachable": unreachable,
    }


def logged_values(window: Window) -> dict[str, float]:
    """The known values of a window by tag name."""
    values = ((tag.name, _value(window, tag)) for tag in TAGS)
    return {name: value for name, value in values if value is not None}


def _value(window: Window, tag: Tag) -> float | None:
    value = getattr(window, tag.attribute)
    if value is not None and tag.part is not None:
        value = value[tag.part]
    return None if value is None else float(value)
