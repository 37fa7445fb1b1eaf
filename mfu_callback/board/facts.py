"""What a run is: the facts that do not change while it goes on."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

import torch
from lightning.pytorch import LightningModule, Trainer
from torch.nn.parameter import UninitializedParameter

from mfu_callback.finder import BatchSizeFinder, BatchSizeResult
from mfu_callback.meter.meter import MFUMeter
from mfu_callback.peaks.this_machine import device_name

_PACKAGES = ("mfu-callback", "torch", "lightning", "thop")


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


def facts_of(trainer: Trainer, pl_module: LightningModule, meter: MFUMeter) -> RunFacts:
    """The facts of a run that has begun.

    Args:
        trainer: In fit.
        pl_module: What it trains.
        meter: What has measured its first step.
    """
    # A lazy module that no step has run has none yet.
    parameters = [one for one in pl_module.parameters() if not isinstance(one, UninitializedParameter)]
    return RunFacts(
        model=type(pl_module).__name__,
        parameters=sum(parameter.numel() for parameter in parameters),
        parameter_bytes=sum(parameter.numel() * parameter.element_size() for parameter in parameters),
        device=device_name(trainer.strategy.root_device),
        devices=trainer.world_size,
        precision=str(trainer.precision),
        strategy=type(trainer.strategy).__name__,
        counter=meter.counted_by,
        batch_size=meter.batch_size,
        batch_flops=meter.batch_flops,
        accumulate_grad_batches=trainer.accumulate_grad_batches,
        versions={"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
    )


def found_batch_size(trainer: Trainer) -> BatchSizeResult | None:
    """What a BatchSizeFinder among the Trainer's callbacks has found."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback.result for callback in callbacks if isinstance(callback, BatchSizeFinder)), None)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # Lightning is there under its older name, or the sources lie on the path
        return torch.__version__ if package == "torch" else "unknown"
