"""What is known of a run when it is given advice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from mfu_callback.meter.circumstances import Circumstances

if TYPE_CHECKING:  # reading logs needs no torch
    from mfu_callback.meter.devices import DeviceFigures, PaceSetter

# A hint whose figure is not known was given because the matmuls would be at least this many times as fast.
_LEAST_TIMES = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a run, under the field names of `mfu_callback.meter.summary.Summary`; None if unknown.

    Attributes:
        steps: Measured steps.
        step_time_sec: Seconds of a step, the median.
        phases_sec: Mean seconds of a step by phase.
        waterfall: The share of the machine that each part used or lost.
        devices: The figures of each of several devices.
        pace: The device that the others wait for.
        mfu: Model FLOPs utilization.
        tokens_per_sec: Tokens per second.
        real_tokens_per_sec: Tokens per second without padding.
        hints: Sentences on settings that would make the matmuls faster, the largest gain first.
        hint_times: How many times as fast, for each of them.
        kernels: The part "kernels" by kind: matmuls, attention, memory, transfers, gaps.
        memory: Memory of the device: "share" of it at the peak, "retries" of its allocator, "swapped_bytes" and
            "resident_bytes" of the process.
        gpu: State of the device (`mfu_callback.meter.gpu_state.figures_of`).
        circumstances: Settings of the run.
    """

    steps: int = 0
    step_time_sec: float | None = None
    phases_sec: Mapping[str, float] | None = None
    waterfall: Mapping[str, float] | None = None
    devices: Sequence[DeviceFigures] | None = None
    pace: PaceSetter | None = None
    mfu: float | None = None
    tokens_per_sec: float | None = None
    real_tokens_per_sec: float | None = None
    hints: Sequence[str] = ()
    hint_times: Sequence[float] = ()
    kernels: Mapping[str, float] | None = None
    memory: Mapping[str, Any] | None = None
    gpu: Mapping[str, Any] | None = None
    circumstances: Circumstances = field(default_factory=Circumstances)

    @classmethod
    def of(cls, figures: Any) -> Facts:
        """The facts that an object has as attributes of the same names.

        Args:
            figures: A `mfu_callback.meter.summary.Summary`.
        """
        known = {one.name: getattr(figures, one.name, None) for one in fields(cls)}
        return cls(**{name: value for name, value in known.items() if value is not None})

    @property
    def step_sec(self) -> float:
        """Mean seconds of a step, of which the parts are shares; 0 if unknown."""
        return sum((self.phases_sec or {}).values()) or self.step_time_sec or 0.0

    def seconds(self, *parts: str) -> float:
        """Seconds of a step that some parts of the waterfall take; 0 if unknown.

        Args:
            parts: Names from `mfu_callback.meter.tags.WATERFALL_PARTS`.
        """
        if self.waterfall:
            return self.step_sec * sum(self.waterfall.get(part, 0.0) for part in parts)
        phases = {} if self.devices or self.phases_sec is None else self.phases_sec  # theirs include waiting
        return sum(phases.get(part, 0.0) for part in parts)

    @property
    def compute_sec(self) -> float:
        """Seconds of a step in the forward and backward pass; 0 if unknown."""
        return self.seconds("mfu", "unreachable", "kernels") or self.seconds("forward", "backward")

    @property
    def matmul_sec(self) -> float:
        """As above; those in its matmuls and its attention, if known."""
        split = self.kernels
        if split is None or not self.waterfall:
            return self.compute_sec
        return self.seconds("mfu", "unreachable") + self.step_sec * (split["matmuls"] + split["attention"])

    @property
    def padding(self) -> float:
        """The share of the tokens that is padding; 0 if unknown."""
        if not self.tokens_per_sec or self.real_tokens_per_sec is None:
            return 0.0
        return 1 - self.real_tokens_per_sec / self.tokens_per_sec

    @property
    def ideal_sec_of_module(self) -> float | None:
        """Seconds that one module's forward and backward pass would take at the peak, in the mean; None if unknown."""
        modules = self.circumstances.modules
        return self.seconds("mfu") / modules if self.waterfall and modules else None

    @property
    def memory_share(self) -> float | None:
        """The peak over the device's memory; None if unknown."""
        return (self.memory or {}).get("share")

    @property
    def retries(self) -> float:
        """Times a step that the device's allocator ran out of memory and emptied its cache; 0 if unknown."""
        return ((self.memory or {}).get("retries") or 0) / max(self.steps, 1)

    @property
    def swapped_bytes(self) -> float:
        """Memory of this process that is swapped out; 0 if unknown."""
        return (self.memory or {}).get("swapped_bytes") or 0.0

    @property
    def swapped_share(self) -> float:
        """That over all memory of this process; 0 if unknown."""
        all_bytes = self.swapped_bytes + ((self.memory or {}).get("resident_bytes") or 0.0)
        return self.swapped_bytes / all_bytes if all_bytes else 0.0

    def hint_gain(self, index: int) -> float:
        """Seconds of a step that a hint's setting would save after those before it; 0 if unknown."""
        left = self.matmul_sec
        for before in range(index):
            left /= self._times(before)
        return left * (1 - 1 / self._times(index))

    def _times(self, index: int) -> float:
        return self.hint_times[index] if index < len(self.hint_times) else _LEAST_TIMES
