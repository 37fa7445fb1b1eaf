"""Saves in host memory, and restores, what trials change and training must find unchanged."""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from mfu_callback.lightning import namespaces
from mfu_callback.tools.shards import SHARDED_TENSORS

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

Undo = Callable[[], None]


class Snapshot:
    """The saved state of some objects. It is restored in place: every object stays the same one.

    Deep roots (modules, optimizers, schedulers, scalers) are followed into their attributes, containers, tensors with
    their gradients, random generators, and objects of the user's own classes. Of shallow roots (data sets, loaders),
    the attributes are saved, and the containers, generators and iterators among them, but no tensors: their data may be
    larger than memory, and training only reads it.

    Args:
        deep: Objects that steps change.
        shallow: Objects that batches are drawn from.
    """

    def __init__(self, deep: Iterable[Any] = (), shallow: Iterable[Any] = ()) -> None:
        self.lost: list[tuple[Any, str]] = []  # shallow roots and the names of iterators in them that cannot be rewound
        self._undo: list[Undo] = []
        self._seen: dict[int, Any] = {}  # holds the objects, so that their ids are not used again
        self._rules = (*_RULES, (namespaces.classes("plugins", "Precision"), _keep_attributes))
        shallow = list(shallow)
        self._seen.update((id(root), root) for root in shallow)
        to_visit = list(deep)
        while to_visit:
            to_visit.extend(self._keep(to_visit.pop()))
        for root in shallow:
            self._keep_shallow(root)

    def restore(self) -> None:
        """Restore everything. May be called more than once."""
        with torch.no_grad():
            for undo in self._undo:
                undo()

    def _keep(self, value: Any) -> Iterable[Any]:
        """Save one object and return what it holds."""
        if id(value) in self._seen:
            return ()
        self._seen[id(value)] = value
        if isinstance(value, Dataset):
            self._keep_shallow(value)
            return ()
        for kinds, keep in self._rules:
            if isinstance(value, kinds):
                undo, held = keep(value)
                self._undo.append(undo)
                return list(held)
        if isinstance(value, tuple):
            return value
        return (vars(value),) if _is_of_a_class_of_the_users(value) else ()

    def _keep_shallow(self, root: Any) -> None:
        attributes = root if isinstance(root, dict) else getattr(root, "__dict__", {})
        for value in (attributes, *attributes.values()):
            if isinstance(value, _SHALLOW):
                self._keep(value)
        if attributes is not root:
            self._keep_iterators(root, attributes)

    def _keep_iterators(self, root: Any, attributes: dict[str, Any]) -> None:
        for name, value in attributes.items():
            if isinstance(value, Iterator):
                self._keep_iterator(root, name, value)

    def _keep_iterator(self, root: Any, name: str, iterator: Iterator[Any]) -> None:
        if hasattr(iterator, "seekable") and iterator.seekable():
            position = iterator.tell()  # type: ignore[attr-defined]
            self._undo.append(lambda: iterator.seek(position))  # type: ignore[attr-defined]
        elif isinstance(iterator, _COPYABLE):
            kept, attributes = copy(iterator), vars(root)
            self._undo.append(lambda: attributes.update({name: copy(kept)}))
        else:
            self.lost.append((root, name))


def state_of(trainer: Trainer, pl_module: LightningModule) -> list[Any]:
    """Everything that a step may change: model, optimizers, schedulers, precision plugin."""
    schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
    return [pl_module, *trainer.optimizers, *schedulers, trainer.precision_plugin]


def holders_of(trainer: Trainer, pl_module: LightningModule) -> list[Any]:
    """Everything that opening the loaders at another batch size may change: model, datamodule, and their hparams."""
    owners: list[Any] = [pl_module, *filter(None, [trainer.datamodule])]  # type: ignore[attr-defined]
    # Reading the hparams of an object that has none would create them.
    return [*owners, *(owner.hparams for owner in owners if hasattr(owner, "_hparams"))]


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor that is sharded over several processes; other tensors as they are."""
    return tensor.to_local() if isinstance(tensor, SHARDED_TENSORS) else tensor  # type: ignore[attr-defined]


def _is_of_a_class_of_the_users(value: Any) -> bool:
    # Objects of libraries may be tied to something outside the process: restoring their attributes could break them.
    if isinstance(value, type | ModuleType | FunctionType | MethodType) or not hasattr(value, "__dict__"):
        return False
    name = type(value).__module__
    if name.partition(".")[0] in sys.stdlib_module_names - {"__main__"}:
        return False
    path = getattr(sys.modules.get(name), "__file__", None) or ""
    return not {"site-packages", "dist-packages"} & set(Path(path).parts)


def _keep_tensor(tensor: Tensor) -> tuple[Undo, Iterable[Any]]:
    with torch.no_grad():
        values = local(tensor.detach()).to("cpu", copy=True)
    gradient = tensor.grad if tensor.is_leaf else None
    requires_grad = tensor.requires_grad

    def undo() -> None:
        # Only what changed is written, since some tensors, such as expanded ones, cannot be written.
        now = local(tensor.detach())
        if now.layout is not torch.strided or not torch.equal(now, values.to(now.device)):
            now.copy_(values)
        if tensor.is_leaf:
            tensor.grad = gradient
            tensor.requires_grad_(requires_grad)

    return undo, () if gradient is None else (gradient,)


def _keep_mapping(mapping: dict[Any, Any]) -> tuple[Undo, Iterable[Any]]:
    items = dict(mapping)

    def undo() -> None:
        mapping.clear()
        mapping.update(items)

    return undo, items.values()


def _keep_sequence(sequence: list[Any] | deque[Any]) -> tuple[Undo, Iterable[Any]]:
    items = list(sequence)

    def undo() -> None:
        sequence.clear()
        sequence.extend(items)

    return undo, items


def _keep_set(members: set[Any]) -> tuple[Undo, Iterable[Any]]:
    items = set(members)

    def undo() -> None:
        members.clear()
        members.update(items)

    return undo, ()


def _keep_array(array: np.ndarray[Any, Any]) -> tuple[Undo, Iterable[Any]]:
    values = array.copy()

    def undo() -> None:
        if array.flags.writeable:
            array[...] = values

    return undo, ()


def _keep_torch_generator(generator: torch.Generator) -> tuple[Undo, Iterable[Any]]:
    state = generator.get_state()

    def undo() -> None:
        generator.set_state(state)

    return undo, ()


def _keep_numpy_generator(generator: np.random.Generator) -> tuple[Undo, Iterable[Any]]:
    state = generator.bit_generator.state
    return lambda: setattr(generator.bit_generator, "state", state), ()


def _keep_numpy_random_state(generator: np.random.RandomState) -> tuple[Undo, Iterable[Any]]:
    state = generator.get_state()
    return lambda: generator.set_state(state), ()


def _keep_python_generator(generator: random.Random) -> tuple[Undo, Iterable[Any]]:
    state = generator.getstate()
    return lambda: generator.setstate(state), ()


def _keep_attributes(value: Any) -> tuple[Undo, Iterable[Any]]:
    return lambda: None, (vars(value),)


_GENERATORS: tuple[tuple[Any, Any], ...] = (
    (torch.Generator, _keep_torch_generator),
    (np.random.Generator, _keep_numpy_generator),
    (np.random.RandomState, _keep_numpy_random_state),
    (random.Random, _keep_python_generator),
)
# What each kind of object holds, and how it is restored. Other objects are left as they are.
_RULES: tuple[tuple[Any, Any], ...] = (
    (Tensor, _keep_tensor),
    (dict, _keep_mapping),
    ((list, deque), _keep_sequence),
    (set, _keep_set),
    (np.ndarray, _keep_array),
    *_GENERATORS,
    (
        (nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler, torch.amp.GradScaler),
        _keep_attributes,
    ),
)
_ITERATED: tuple[Iterable[Any], ...] = ([], (), range(0), "", b"", {}, {}.values(), {}.items(), set())
_COPYABLE = tuple(type(iter(kind)) for kind in _ITERATED)
_SHALLOW = (dict, list, deque, set, *(kind for kind, _ in _GENERATORS))
