"""The batches of several training loaders, which arrive together as one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


def batches_in(batch: Any, trainer: Trainer) -> list[Any]:
    """The batches in a batch, one of each loader that has one left.

    Args:
        batch: What the Trainer hands to the training step.
        trainer: Its ``train_dataloader`` is a loader, or nested mappings, lists and tuples of loaders, which the batch
            then has too, unless a hook of the user's has made one batch of them.
    """
    try:
        batches = _batches_in(batch, trainer.train_dataloader)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError):
        return [batch]
    may_be_merged = len(batches) > 1 and all(isinstance(one, torch.Tensor) for one in batches)
    return [batch] if may_be_merged and _has_own_hook(trainer) else batches


def _batches_in(batch: Any, loaders: Any) -> list[Any]:
    if isinstance(loaders, Mapping):
        pairs = [(batch[name], loader) for name, loader in loaders.items()]
    elif isinstance(loaders, list | tuple):
        pairs = list(zip(batch, loaders, strict=True))
    else:
        return [] if batch is None else [batch]
    return [one for part, loader in pairs for one in _batches_in(part, loader)]


def _has_own_hook(trainer: Trainer) -> bool:
    """Whether the model or the datamodule changes batches on their way; Lightning's own hooks do not."""
    owners = (trainer.lightning_module, trainer.datamodule)  # type: ignore[attr-defined]
    hooks = [getattr(type(owner), name) for owner in owners if owner is not None for name in _HOOKS]
    return any(not hook.__module__.endswith("core.hooks") for hook in hooks)
