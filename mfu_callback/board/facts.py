"""What a run is: the facts that do not change while it goes on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What a run is.

    Attributes:
        model: The class of the LightningModule.
        parameters: How many it has, on all devices together.
        parameter_bytes: What they take.
        device: What it trains on.
        devices: How many.
        precision: The Trainer's.
        strategy: The class of the Trainer's.
        counter: What counts the FLOPs.
        batch_size: Samples in the first batch of one process; None where no tensor tells.
        batch_flops: Model FLOPs of the forward and backward of one such batch; None where they are not counted.
        accumulate_grad_batches: Batches of one process in a step.
        versions: Of the packages that measure and train, and of Python.
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
