"""The operators of a run: their times, what they compute, and the best rates of this device beside them."""

from __future__ import annotations

import torch

from mfu_callback.flops.operator_calls import MATMUL, MEMORY, Calls, OperatorCalls
from mfu_callback.meter.operator_times import OperatorTimes, Times
from mfu_callback.meter.per_operator import Known, OperatorFigures, kernels_split, operator_figures
from mfu_callback.meter.run_peaks import RunPeaks
from mfu_callback.peaks.bandwidth import measure_bandwidth, measure_product, size_class

_MOST_CLASSES = 8


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
        """Measure the bandwidth and the shape classes of most time; takes up to two seconds.

        Args:
            times: The times of a run's operators.
            known: What calls of operators compute.

        Raises:
            RuntimeError: If the device has no memory for it.
        """
        self._bandwidth = measure_bandwidth(self._device)
        seconds: dict[tuple[str, tuple[int, int, int]], float] = {}
        for operator, took in times.operators.items():
            one = known.get((operator.name, operator.shapes))
            if one is not None and one.product is not None:
                key = one.dtype, size_class(one.product)
                seconds[key] = seconds.get(key, 0.0) + took.seconds
        for dtype, sizes in sorted(seconds, key=lambda key: -seconds[key])[:_MOST_CLASSES]:
            self._products[dtype, sizes] = measure_product(self._device, getattr(torch, dtype), sizes)

    def best_sec(self, one: Calls) -> float | None:
        """Seconds that one call would take at the best rate of its kind; None if unknown."""
        if one.kind == MEMORY:
            return None if not self._bandwidth else one.bytes / one.calls / self._bandwidth
        if not one.flops:
            return None
        key = (one.dtype, size_class(one.product)) if one.kind == MATMUL and one.product is not None else None
        rate = self._products.get(key) if key is not None else None
        return one.flops / one.calls / rate if rate else self.achievable_sec(one) or None

    def achievable_sec(self, one: Calls) -> float:
        """Seconds that the FLOPs of one call would take at the achievable peak of their dtype; 0 if unknown."""
        others = self._peaks.of_dtypes
        reached = others[one.dtype][1] if one.dtype in others else self._peaks.achievable or self._peaks.peak
        return (one.flops or 0.0) / one.calls / reached.flops_per_sec if reached is not None else 0.0


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
            RuntimeError: If the device has no memory for it.
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
