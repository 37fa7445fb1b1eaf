"""Tracks the memory of a training step on fake tensors, which have shapes but no data."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mfu_callback.tools.dispatch_modes import uncompiled_dispatch


class Part(Enum):
    """What memory is used for."""

    PARAMETERS = "parameters"
    GRADIENTS = "gradients"
    OPTIMIZER = "optimizer"
    ACTIVATIONS = "activations"
    TEMPORARY = "temporary"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPrediction:
    """Bytes in use at the memory peak of a training step.

    Attributes:
        parameters: Bytes of parameters and buffers.
        gradients: Bytes of the parameters' gradients.
        optimizer: Bytes of the optimizers' state.
        activations: Bytes of what the forward pass created.
        temporary: Bytes of everything else: the batch, and what the backward pass and the optimizers create and free
            again.
    """

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    temporary: int

    @property
    def total(self) -> int:
        """The sum of all parts."""
        return self.parameters + self.gradients + self.optimizer + self.activations + self.temporary


@dataclass(slots=True)
class _Held:
    part: Part
    size: int


# Where a kernel may be that runs on tensors without data.
_FAKE_KERNELS = ("Meta", "CompositeExplicitAutograd", "CompositeImplicitAutograd")


class MemoryMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A dispatch mode that tracks every storage that operators create, from its first tensor to its last.

    Memory that an operator allocates and frees internally is not seen.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.making = Part.TEMPORARY  # the part that new storages count for
        self.totals: list[int] = []  # bytes in use after each allocation since the last `begin`
        self._bytes: Counter[Part] = Counter()
        self._peak: Counter[Part] = Counter()
        self._held: weakref.WeakKeyDictionary[Any, _Held] = weakref.WeakKeyDictionary()

    @uncompiled_dispatch
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _is_without_trace(func):
            return None
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._see(leaf, self.making)
        return out

    def hold(self, tensors: Iterable[Tensor], part: Part) -> None:
        """Count the memory of tensors for ``part`` from now on."""
        for tensor in tensors:
            held = self._see(tensor, part)
            self._bytes[held.part] -= held.size
            self._bytes[part] += held.size
            held.part = part

    def begin(self) -> None:
        """Start a new measurement of the peak."""
        self._peak = self._bytes.copy()
        self.totals = [self._bytes.total()]

    def peak(self) -> MemoryPrediction:
        """The memory in use at the peak since :meth:`begin`."""
        return MemoryPrediction(**{part.value: self._peak[part] for part in Part})

    def _see(self, tensor: Tensor, part: Part) -> _Held:
        storage = tensor.untyped_storage()
        held = self._held.get(storage)
        if held is None:
            held = self._held[storage] = _Held(part, storage.nbytes())
            self._bytes[part] += held.size
            weakref.finalize(storage, self._forget, held)
            self.totals.append(self._bytes.total())
            if self.totals[-1] > self._peak.total():
                self._peak = self._bytes.copy()
        return held

    def _forget(self, held: _Held) -> None:
        self._bytes[held.part] -= held.size


def _is_without_trace(func: Any) -> bool:
    """Whether an operator returns nothing and has no fake implementation, as the fused optimizers of an older torch."""
    if not isinstance(func, OpOverload) or func._schema.returns:
        return False
    name: str = func.name()  # type: ignore[no-untyped-call]
    return not any(torch._C._dispatch_has_kernel_for_dispatch_key(name, key) for key in _FAKE_KERNELS)
