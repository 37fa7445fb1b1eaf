"""What trials change and training must find unchanged, kept in host memory."""

from __future__ import annotations

import copy
from collections import OrderedDict, deque
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

_CONTAINERS = (list, dict, set, OrderedDict, deque)
# Kept as tensors of their own, or not the trials' business.
_NOT_ATTRIBUTES = {"_parameters", "_buffers", "_modules", "_trainer", "_fabric"}


class Snapshot:
    """The state of a model, its optimizers, schedulers and precision plugin; put back in place.

    Parameters, buffers and gradients stay the same tensors. Plain Python attributes of every submodule are put back
    too (containers by their contents, one level deep), so that counters and metrics know nothing of the trials.

    Args:
        trainer: Whose optimizers, schedulers and precision plugin are kept.
        pl_module: The model.
    """

    def __init__(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._precision = trainer.precision_plugin
        self._precision_state = copy.deepcopy(self._precision.state_dict())
        self._schedulers = [
            (c.scheduler, copy.deepcopy(c.scheduler.state_dict())) for c in trainer.lr_scheduler_configs
        ]
        self._optimizers = [_OptimizerState(optimizer) for optimizer in trainer.optimizers]
        self._tensors = [_TensorState(t) for t in (*pl_module.parameters(), *pl_module.buffers())]
        self._modules = [_Attributes(module) for module in pl_module.modules()]

    def restore(self) -> None:
        """Put everything back."""
        parts: list[_Attributes | _TensorState | _OptimizerState] = [*self._modules, *self._tensors, *self._optimizers]
        for part in parts:
            part.restore()
        for scheduler, state in self._schedulers:
            scheduler.load_state_dict(copy.deepcopy(state))
        self._precision.load_state_dict(copy.deepcopy(self._precision_state))


class _TensorState:
    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._values = tensor.detach().to("cpu", copy=True)
        self._gradient = tensor.grad
        self._gradient_values = None if tensor.grad is None else tensor.grad.detach().to("cpu", copy=True)
        self._requires_grad = tensor.requires_grad

    def restore(self) -> None:
        with torch.no_grad():
            self._tensor.copy_(self._values)
            if self._gradient is not None and self._gradient_values is not None:
                self._gradient.copy_(self._gradient_values)
        self._tensor.grad = self._gradient
        self._tensor.requires_grad_(self._requires_grad)


class _OptimizerState:
    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._state = {parameter: copy.deepcopy(state) for parameter, state in optimizer.state.items()}
        self._groups = [_without_parameters(group) for group in optimizer.param_groups]
        self._flags = {k: v for k, v in vars(optimizer).items() if isinstance(v, bool | int | float | None)}

    def restore(self) -> None:
        optimizer = self._optimizer
        optimizer.state.clear()
        optimizer.state.update({parameter: copy.deepcopy(state) for parameter, state in self._state.items()})
        for group, values in zip(optimizer.param_groups, self._groups, strict=True):
            group.update(copy.deepcopy(values))
        vars(optimizer).update(self._flags)


def _without_parameters(group: dict[str, Any]) -> dict[str, Any]:
    return copy.deepcopy({name: value for name, value in group.items() if name != "params"})


class _Attributes:
    def __init__(self, module: nn.Module) -> None:
        self._namespace = vars(module)
        self._values = {k: (v, _contents(v)) for k, v in self._namespace.items() if k not in _NOT_ATTRIBUTES}
        # A buffer may have been replaced by another tensor; the original objects come back.
        self._registered: list[tuple[dict[str, Any], dict[str, Any]]] = [
            (module._buffers, dict(module._buffers)),
            (module._parameters, dict(module._parameters)),
        ]

    def restore(self) -> None:
        for added in self._namespace.keys() - self._values.keys() - _NOT_ATTRIBUTES:
            del self._namespace[added]
        for name, (value, contents) in self._values.items():
            _refill(value, contents)
            self._namespace[name] = value
        for registry, entries in self._registered:
            registry.clear()
            registry.update(entries)


def _contents(value: Any) -> Any:
    if type(value) in _CONTAINERS:
        return copy.copy(value)
    return value.detach().clone() if isinstance(value, Tensor) else None


def _refill(value: Any, contents: Any) -> None:
    if isinstance(value, Tensor):
        with torch.no_grad():
            value.copy_(contents)
    elif type(value) in _CONTAINERS:
        value.clear()
        (value.update if hasattr(value, "update") else value.extend)(contents)
