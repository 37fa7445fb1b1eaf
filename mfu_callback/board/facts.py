"""The facts of a run that do not change while it goes on: model, device, precision, versions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """The facts of a run.

    Attributes:
        model: The class of the model.
        parameters: Number of its parameters, over all devices.
        parameter_bytes: Their size in bytes.
        device: Name of the device.
        devices: Number of devices.
        precision: The precision that it trains in, as the loop names it.
        strategy: How its processes share the work: the class of the Trainer's strategy.
        counter: Name of the FLOP counter.
        batch_size: Samples in the first batch of one process; None if the batch has no tensor.
        batch_flops: Model FLOPs of the forward and backward pass of that batch; None if they were not counted.
        accumulate_grad_batches: Micro-batches of one process in an optimizer step.
        versions: Versions of Python and of the packages that train and measure.
    """

    model: str
    parameters: int
    parameter_bytes: int
    device: str
    devices: int
    precision: str
    strategy: str
    counter: str
    batch_size: int | None
    batch_flops: float | None
    accumulate_grad_batches: int
    versions: dict[str, str] = field(default_factory=dict)


class FoundBatchSize(Protocol):
    """The result of a search for the batch size, as the card and the record show it."""

    def markdown(self) -> str:
        """The size and the trials as text."""

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data."""
