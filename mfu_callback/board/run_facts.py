"""Collects the facts of a run."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from mfu_callback.board.facts import RunFacts
from mfu_callback.meter.meter import RunMeter
from mfu_callback.peaks.this_machine import device_name


def facts_of(
    module: nn.Module,
    meter: RunMeter,
    *,
    device: torch.device,
    devices: int,
    precision: str,
    strategy: str,
    accumulate_grad_batches: int,
    loop: str | None = None,
) -> RunFacts:
    """The facts of a run that has begun.

    Args:
        module: The model.
        meter: The meter, after the first step.
        device: The device of this process.
        devices: As in `RunFacts`.
        precision: As in `RunFacts`.
        strategy: As in `RunFacts`.
        accumulate_grad_batches: As in `RunFacts`.
        loop: What pip installs the loop's package by; None for a loop of one's own.
    """
    packages = ("mfu-callback", "torch", *(() if loop is None else (loop,)), "thop")
    # A lazy module that has not run has no parameters yet.
    parameters = [one for one in module.parameters() if not isinstance(one, UninitializedParameter)]
    return RunFacts(
        model=type(module).__name__,
        parameters=sum(parameter.numel() for parameter in parameters),
        parameter_bytes=sum(parameter.numel() * parameter.element_size() for parameter in parameters),
        device=device_name(device),
        devices=devices,
        precision=precision,
        strategy=strategy,
        counter=meter.conventions.counter_name,
        batch_size=meter.batches.size,
        batch_flops=None if meter.flops.of_first is None else meter.flops.of_first.model,
        accumulate_grad_batches=accumulate_grad_batches,
        versions={"python": platform.python_version()} | {name: _version(name) for name in packages},
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # it runs from its sources
        return torch.__version__ if package == "torch" else "unknown"
