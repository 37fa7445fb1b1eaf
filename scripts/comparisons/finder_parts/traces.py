"""What a search leaves behind: everything that it could change, by name, to compare before and after it."""

from __future__ import annotations

import hashlib
import random
import resource
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

_PLAIN = (bool, int, float, str, tuple, torch.device, type(None))
_OF_TRAINER = ("callbacks", "loggers", "max_steps", "max_epochs", "limit_train_batches", "limit_val_batches")
_ALSO_OF_TRAINER = ("global_step", "current_epoch", "datamodule", "should_stop")


def traces(module: LightningModule, trainer: Trainer | None) -> dict[str, Any]:
    """Returns what a search could change, by name; equal values mean that it changed nothing."""
    flags = {name: part.training for name, part in module.named_modules()}
    gradients = {name: parameter.grad is not None for name, parameter in module.named_parameters()}
    named: dict[str, Any] = {
        "weights": _hash(module.parameters()),
        "buffers": _hash(module.buffers()),
        "gradients": gradients,
        "train/eval flags": flags,
        "torch's random state": _hash([torch.get_rng_state()]),
        "numpy's random state": hashlib.sha256(np.random.get_state()[1].tobytes()).hexdigest(),
        "Python's random state": hash(random.getstate()),
        "RLIMIT_DATA": resource.getrlimit(resource.RLIMIT_DATA),
        "files": sorted(map(str, Path().rglob("*"))),
    }
    named |= {f"model.{name}": _plain(value) for name, value in vars(module).items() if name != "training"}
    return named if trainer is None else named | _of_trainer(trainer)


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Returns the names of the values that have changed."""
    return [name for name in before | after if before.get(name) != after.get(name)]


def _of_trainer(trainer: Any) -> dict[str, Any]:
    named: dict[str, Any] = {f"trainer.{name}": _plain(getattr(trainer, name)) for name in _OF_TRAINER}
    named |= {f"trainer.{name}": _plain(getattr(trainer, name)) for name in _ALSO_OF_TRAINER}
    return named | {"optimizer state": sum(len(optimizer.state) for optimizer in trainer.optimizers)}


def _plain(value: Any) -> Any:
    """Returns a plain value as it is, a list as the ids of its items, and anything else as its id."""
    if isinstance(value, list):
        return [id(item) for item in value]
    return value if isinstance(value, _PLAIN) else id(value)


def _hash(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
