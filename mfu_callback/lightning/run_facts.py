"""Collects the facts of a run from its Trainer."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import torch
from torch.nn.parameter import UninitializedParameter

from mfu_callback.board.facts import RunFacts
from mfu_callback.lightning.namespaces import distribution_of
from mfu_callback.meter.meter import MFUMeter
from mfu_callback.peaks.this_machine import device_name

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


def facts_of(trainer: Trainer, pl_module: LightningModule, meter: MFUMeter) -> RunFacts:
    """The facts of a run that has begun.

    Args:
        trainer: The Trainer, in fit.
        pl_module: The model.
        meter: The meter, after the first step.
    """
    # A lazy module that has not run has no parameters yet.
    parameters = [one for one in pl_module.parameters() if not isinstance(one, UninitializedParameter)]
    return RunFacts(
        model=type(pl_module).__name__,
        parameters=sum(parameter.numel() for parameter in parameters),
        parameter_bytes=sum(parameter.numel() * parameter.element_size() for parameter in parameters),
        device=device_name(trainer.strategy.root_device),
        devices=trainer.world_size,
        precision=str(trainer.precision),
        strategy=type(trainer.strategy).__name__,
        counter=meter.conventions.counter_name,
        batch_size=meter.batches.size,
        batch_flops=None if meter.flops.of_first is None else meter.flops.of_first.model,
        accumulate_grad_batches=trainer.accumulate_grad_batches,
        versions=_versions(trainer),
    )


def _versions(trainer: Trainer) -> dict[str, str]:
    packages = ("mfu-callback", "torch", distribution_of(trainer), "thop")
    return {"python": platform.python_version()} | {name: _version(name) for name in packages}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # Lightning is installed under its older name, or the package runs from its sources
        return torch.__version__ if package == "torch" else "unknown"
