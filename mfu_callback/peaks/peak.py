"""What a look-up or a measurement of a device's peak results in."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """The highest rate of one device at one dtype.

    Attributes:
        flops_per_sec: FLOP/s of one device, dense (never "with sparsity").
        name: The device, as the table or the system names it.
        dtype: The dtype of the matmuls' inputs.
        source: The datasheet's URL, "derived: ..." with the product that it is, "measured: ..." with what was measured,
            or "given: ...".
        memory_bytes: The device's memory, where the datasheet says it.
        bandwidth_bytes_per_sec: The memory's bandwidth likewise.
        is_noisy: Whether it was measured while the device's speed varied, so that its best may lie higher.
    """

    flops_per_sec: float
    name: str
    dtype: torch.dtype
    source: str
    memory_bytes: float | None = None
    bandwidth_bytes_per_sec: float | None = None
    is_noisy: bool = False

    @property
    def kind(self) -> str:
        """Where it is from: "datasheet", "derived", "measured" or "given"."""
        return "datasheet" if self.source.startswith("https://") else self.source.split(":")[0]

    @property
    def is_measured(self) -> bool:
        """Whether this is what the device reached rather than what a datasheet promises."""
        return self.kind == "measured"

    @property
    def description(self) -> str:
        """The rate, the device, the dtype and the source, for people."""
        return f"{self}, {self.name} in {dtype_name(self.dtype)} ({self.source})"

    def __str__(self) -> str:
        """The rate alone, for people."""
        return f"{self.flops_per_sec / 1e12:.4g} TFLOP/s{' (noisy)' if self.is_noisy else ''}"


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a dtype without the module: "bfloat16"."""
    return str(dtype).removeprefix("torch.")
