"""Training FLOPs by batch shape: each shape is counted once, up to a limit."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.nn.utils.rnn import PackedSequence

from mfu_callback.flops.flop_count import FlopCount
from mfu_callback.tools.nested import parts_of

_MOST_COUNTS = 32  # counted shapes for one state of the model
_SHORT = 100
_TENSOR = torch.Tensor
_MOST_TRIES = 3  # for one shape whose counts find nothing (a training_step that returns None)


class TrainingFlops(NamedTuple):
    """FLOPs of one call of ``training_step``; NaN if unknown.

    Attributes:
        model: Model FLOPs of the forward and backward pass.
        recomputed: FLOPs that run a second time.
        of_dtypes: The model FLOPs by the dtype that is multiplied, where they are of several; otherwise empty.
    """

    model: float = math.nan
    recomputed: float = math.nan
    of_dtypes: Mapping[str, float] = {}

    def times(self, number: float) -> TrainingFlops:
        """The FLOPs of a batch that is some times as large."""
        of_dtypes = {dtype: flops * number for dtype, flops in self.of_dtypes.items()}
        return TrainingFlops(self.model * number, self.recomputed * number, of_dtypes)


UNKNOWN = TrainingFlops()


def form_of(batch: Any) -> Hashable:
    """A key that is equal for batches whose tensors have the same names, shapes and dtypes; quick to make and compare.

    Takes 0.2 us for a tensor and 0.7 us for a mapping of three, a third of what `shape_of` does.
    """
    kind = type(batch)
    try:
        if kind is _TENSOR:
            return batch.shape, batch.dtype
        if (kind is tuple or kind is list) and len(batch) <= _SHORT:
            return kind, tuple([form_of(part) for part in batch])
        if kind is dict:
            return kind, tuple([(name, form_of(part)) for name, part in batch.items()])
    except RuntimeError:  # a nested tensor of the strided layout has no shape
        pass
    return _form_of_other(batch)


def _form_of_other(batch: Any) -> Hashable:
    kind = type(batch)
    if isinstance(batch, torch.Tensor):
        return kind, batch.dtype, batch.size(0) if batch.is_nested else None, _shape(batch)
    parts = parts_of(batch)
    if parts is None:
        return None
    # A packed sequence holds its lengths as the values of a tensor.
    samples = int(batch.batch_sizes[0]) if isinstance(batch, PackedSequence) else None
    return kind, samples, tuple([(name, form_of(part)) for name, part in parts])


@dataclass(frozen=True, slots=True)
class BatchShape:
    """The shape of a batch, on which its FLOPs depend.

    Attributes:
        structure: The nesting of the tensors, with their names, ranks and dtypes.
        sizes: All dimensions of all tensors, in order.
        elements: Number of elements of the first tensor, which is the model's input.
        samples: The first dimension of the first tensor that has dimensions; 1 if none has.
    """

    structure: Hashable
    sizes: tuple[int, ...]
    elements: int
    samples: int

    @property
    def elements_per_sample(self) -> float:
        """Elements per sample: the length of a sequence or the size of an image."""
        return self.elements / max(self.samples, 1)


def shape_of(batch: Any) -> BatchShape:
    """The shape of a batch of any kind."""
    shapes: list[tuple[int, ...]] = []
    structure = _structure(batch, shapes)
    samples = next((shape[0] for shape in shapes if shape), 1)
    return BatchShape(structure, sum(shapes, ()), math.prod(next(iter(shapes), (0,))), samples)


def _structure(value: Any, shapes: list[tuple[int, ...]]) -> Hashable:
    if isinstance(value, torch.Tensor):
        shapes.append(_shape(value))
        return value.dim(), value.dtype
    parts = parts_of(value)
    return None if parts is None else tuple((name, _structure(part, shapes)) for name, part in parts)


def _shape(tensor: torch.Tensor) -> tuple[int, ...]:
    """The shape of a tensor; of a jagged one that of its values, of a nested strided one those of all components."""
    if not tensor.is_nested:
        return tuple(tensor.shape)
    if tensor.layout is torch.jagged:
        return tuple(tensor.values().shape)
    return tuple(tensor._nested_tensor_size().flatten().tolist())


class CountsByShape:
    """Keeps the training FLOPs of every counted batch shape.

    Args:
        training_flops: Returns the training FLOPs of a count, or None if the count found nothing.
    """

    def __init__(self, training_flops: Callable[[FlopCount], TrainingFlops | None]) -> None:
        self.model_state: Hashable = None  # such as the frozen parameters; counts hold for one state alone
        self._training_flops = training_flops
        self._known: dict[tuple[Hashable, BatchShape], TrainingFlops] = {}
        self._tries: Counter[tuple[Hashable, BatchShape]] = Counter()

    def needs_count(self, shape: BatchShape) -> bool:
        """Whether a batch of this shape must be counted."""
        return (self.model_state, shape) not in self._known and not self.is_full

    @property
    def is_full(self) -> bool:
        """Whether the limit of counted shapes is reached for this state of the model."""
        return sum(state == self.model_state for state, _ in self._known) >= _MOST_COUNTS

    def add(self, shape: BatchShape, count: FlopCount) -> bool:
        """Store the count of a batch of this shape. A count that found nothing may be repeated a few times.

        Returns:
            False if it found nothing for the last time, so that the FLOPs stay unknown.
        """
        key = self.model_state, shape
        found = self._training_flops(count)
        if found is None:
            self._tries[key] += 1
            if self._tries[key] < _MOST_TRIES:
                return True
        self._known[key] = found or UNKNOWN
        return found is not None

    def give_up(self, shape: BatchShape) -> None:
        """Store the FLOPs of this shape as unknown."""
        self._known[self.model_state, shape] = UNKNOWN

    def flops(self, shape: BatchShape) -> TrainingFlops:
        """FLOPs of a batch: as counted, or scaled from the most similar counted shape once the limit is reached."""
        known = self._known.get((self.model_state, shape))
        return self._scaled(shape) if known is None else known

    def _scaled(self, shape: BatchShape) -> TrainingFlops:
        alike = [
            (known, flops)
            for (state, known), flops in self._known.items()
            if state == self.model_state and known.structure == shape.structure and known.elements
        ]
        if not alike:
            return UNKNOWN
        nearest, flops = min(alike, key=lambda row: abs(row[0].elements_per_sample - shape.elements_per_sample))
        return flops.times(shape.elements / nearest.elements)
