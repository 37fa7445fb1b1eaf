"""The operators of a run: their times, what they compute, and the best rates of this device beside them."""

from __future__ import annotations

import math
from collections import Counter
from contextlib import suppress
from time import perf_counter

import torch

from mfu_callback.flops.operator_calls import MEMORY, Calls, OperatorCalls
from mfu_callback.meter.operator_times import OperatorTimes, Times
from mfu_callback.meter.per_operator import Known, OperatorFigures, kernels_split, operator_figures
from mfu_callback.meter.run_peaks import RunPeaks
from mfu_callback.peaks.bandwidth import measure_bandwidth, measure_product, size_class

_MOST_CLASSES = 8
_CLASSES_SEC = 1.3  # for all of them
_CALL_SEC = 0.03  # for one matmul; larger ones are cut
_MOST_NUMBERS = {"cpu": 2**23}  # of the three matrices of a matmul
_MOST_NUMBERS_ELSEWHERE = 2**27


class Roofs:
    """Measures how fast the device copies, and multiplies matrices of the shapes that a run spends most time on.

    Args:
        device: The device.
        peaks: The peaks of the run, which stand for shapes that are not measured.
    """

    def __init__(self, device: torch.device, peaks: RunPeaks) -> None:
        self._device = device
        self._peaks = peaks
        self._bandwidth: float | None = None
        self._products: dict[tuple[str, tuple[int, int, int]], float] = {}

    def measure(self, times: Times, known: Known) -> None:
        """Measure the bandwidth and the shape classes of most time; takes about two seconds.

        What the device cannot compute, or has no memory for, stays unknown.

        Args:
            times: The times of a run's operators.
            known: What calls of operators compute.
        """
        with suppress(RuntimeError):
            self._bandwidth = measure_bandwidth(self._device)
        seconds: Counter[tuple[str, tuple[int, int, int]]] = Counter()
        for operator, took in times.operators.items():
            key = self._class_of(known.get((operator.name, operator.shapes)))
            if key is not None:
                seconds[key] += took.seconds  # type: ignore[assignment]
        end = perf_counter() + _CLASSES_SEC
        for (dtype, sizes), _ in seconds.most_common(_MOST_CLASSES):
            if perf_counter() > end:
                break
            with suppress(RuntimeError, ValueError):
                self._products[dtype, sizes] = measure_product(self._device, getattr(torch, dtype), sizes)

    def best_sec(self, one: Calls) -> float | None:
        """Seconds that one call would take at the best rate of its kind; None if unknown."""
        if one.kind == MEMORY:
            return one.bytes / one.calls / self._bandwidth if self._bandwidth else None
        if not one.flops:
            return None
        key = self._class_of(one)
        rate = None if key is None else self._products.get(key)
        return one.flops / one.calls / rate if rate else self.achievable_sec(one) or None

    def _class_of(self, one: Calls | None) -> tuple[str, tuple[int, int, int]] | None:
        if one is None or one.product is None:
            return None
        most_numbers = _MOST_NUMBERS.get(self._device.type, _MOST_NUMBERS_ELSEWHERE)
        rate = self._rate_of(one.dtype)
        most_flops = math.inf if rate is None else _CALL_SEC * rate
        return one.dtype, size_class(one.product, most_numbers=most_numbers, most_flops=most_flops)

    def achievable_sec(self, one: Calls) -> float:
        """Seconds that the FLOPs of one call would take at the achievable peak of their dtype; 0 if unknown."""
        rate = self._rate_of(one.dtype)
        return (one.flops or 0.0) / one.calls / rate if rate is not None else 0.0

    def _rate_of(self, dtype: str) -> float | None:
        """The achievable peak of a dtype, in FLOP/s."""
        others = self._peaks.of_dtypes
        reached = others[dtype][1] if dtype in others else self._peaks.achievable or self._peaks.peak
        return None if reached is None else reached.flops_per_sec


class RunOperators:
    """The operators of a run.

    Args:
        device: The device that computes.

    Attributes:
        times: Profiles some batches.
        calls: Records what the operators of the counted batches compute and move.
    """

    def __init__(self, device: torch.device) -> None:
        self.times = OperatorTimes(device)
        self.calls = OperatorCalls()
        self._device = device
        self._read: Times | None = None
        self._roofs: Roofs | None = None

    def measure(self, peaks: RunPeaks) -> None:
        """Read the profiles and measure the roofs, once the run is over.

        Args:
            peaks: The peaks of the run.

        Raises:
            Exception: Any exception of torch's profiler, if a profile cannot be read.
        """
        if self.times.steps:
            self._read, self._roofs = self.times.read(self.calls.known), Roofs(self._device, peaks)
            self._roofs.measure(self._read, self.calls.known)

    def figures(self) -> tuple[OperatorFigures, ...] | None:
        """The figures of each operator; None if nothing was profiled or measured."""
        if self._read is None or self._roofs is None:
            return None
        return operator_figures(self._read, self.calls.known, self._roofs.best_sec)

    def kernels(self, share: float) -> dict[str, float] | None:
        """What the part "kernels" of the waterfall consists of; None as above.

        Args:
            share: The part, a fraction of the machine.
        """
        if self._read is None or self._roofs is None:
            return None
        return kernels_split(self._read, self.calls.known, share, self._roofs.achievable_sec)
