"""The result of looking up or measuring a device's peak."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mfu_callback.tools.options import FLAG, Option, above, checked, instance_of, is_text, one_of

DTYPE = Option("must be a torch.dtype, for example torch.bfloat16.", instance_of(torch.dtype))
_AMOUNT = Option("must be a number above 0, or None if it is unknown.", one_of(None), above(0))
_OPTIONS = {
    "flops_per_sec": Option("must be a number above 0: the FLOP/s of one device, for example 312e12.", above(0)),
    "name": Option("must be the name of the device.", is_text),
    "dtype": DTYPE,
    "source": Option("must be a text: a URL, or 'given: ...'.", is_text),
    "memory_bytes": _AMOUNT,
    "bandwidth_bytes_per_sec": _AMOUNT,
    "is_noisy": FLAG,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """The highest rate of one device at one dtype.

    Attributes:
        flops_per_sec: FLOP/s of one device, dense (never "with sparsity").
        name: The name of the device, from the table or from the system.
        dtype: The dtype of the matmuls' inputs.
        source: The datasheet's URL, "derived: ..." with the factors of the product, "measured: ..." with a description
            of the measurement, or "given: ...".
        memory_bytes: The size of the device's memory; None if the datasheet does not give it.
        bandwidth_bytes_per_sec: The bandwidth of that memory; None if the datasheet does not give it.
        is_noisy: Whether the device's speed varied during the measurement, so that its real peak may be higher.

    Raises:
        ValueError: If a field has a value that is not allowed.
    """

    flops_per_sec: float
    name: str
    dtype: torch.dtype
    source: str
    memory_bytes: float | None = None
    bandwidth_bytes_per_sec: float | None = None
    is_noisy: bool = False

    def __post_init__(self) -> None:
        for name, value in checked(_OPTIONS, {name: getattr(self, name) for name in _OPTIONS}).items():
            object.__setattr__(self, name, value)  # numbers of numpy as Python's

    @property
    def kind(self) -> str:
        """The kind of source: "datasheet", "derived", "measured" or "given"."""
        return "datasheet" if self.source.startswith("https://") else self.source.split(":")[0]

    @property
    def is_measured(self) -> bool:
        """Whether this rate was reached in a measurement, rather than promised by a datasheet."""
        return self.kind == "measured"

    @property
    def description(self) -> str:
        """The rate, the device, the dtype and the source, as readable text."""
        return f"{self}, {self.name} in {dtype_name(self.dtype)} ({self.source})"

    def __str__(self) -> str:
        """The rate alone, as readable text."""
        return f"{self.flops_per_sec / 1e12:.4g} TFLOP/s{' (noisy)' if self.is_noisy else ''}"


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a dtype without the module: "bfloat16"."""
    return str(dtype).removeprefix("torch.")
