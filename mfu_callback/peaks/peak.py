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
        source: The datasheet's URL, or "measured ..." with what was measured, or "given ...".
    """

    flops_per_sec: float
    name: str
    dtype: torch.dtype
    source: str

    @property
    def is_measured(self) -> bool:
        """Whether this is what the device reached rather than what a datasheet promises."""
        return self.source.startswith("measured")
