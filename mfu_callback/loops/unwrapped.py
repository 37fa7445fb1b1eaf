"""The model inside its wrappers, and what it tells of the run."""

from __future__ import annotations

from collections import Counter

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

_WRAPPERS = ("OptimizedModule", "_FabricModule")
_INNER = ("_orig_mod", "_forward_module", "module")  # of torch.compile, of Fabric, of DDP and Fabric


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, whose names the FLOPs and times of its modules have.

    Args:
        model: The model as it is called: compiled, in DDP, set up by Fabric.
    """
    while (inner := _inner(model)) is not None:
        model = inner
    return model


def ddp_of(model: nn.Module) -> nn.Module:
    """The DDP wrapper around a model, or what it is called by if there is none.

    Args:
        model: As above.
    """
    wrapper: nn.Module | None = model
    while wrapper is not None and not isinstance(wrapper, DistributedDataParallel):
        wrapper = _inner(wrapper)
    return model if wrapper is None else wrapper


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter; the CPU if it has none."""
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device


def dtype_of(model: nn.Module) -> torch.dtype:
    """The dtype of most of the model's parameters."""
    sizes: Counter[torch.dtype] = Counter()
    for parameter in model.parameters():
        if parameter.is_floating_point():
            sizes[parameter.dtype] += parameter.numel()
    return max(sizes, key=sizes.__getitem__, default=torch.float32)


def _inner(model: nn.Module) -> nn.Module | None:
    is_wrapper = isinstance(model, DistributedDataParallel) or type(model).__name__ in _WRAPPERS
    if not is_wrapper:
        return None
    return next((model._modules[name] for name in _INNER if model._modules.get(name) is not None), None)
