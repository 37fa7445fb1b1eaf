"""Training FLOPs by batch shape: each shape is counted once, up to a limit."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence

from mfu_callback.flops.flop_count import FlopCount
from mfu_callback.flops.repeated_counts import RepeatedCounts, TrainingFlops
from mfu_callback.flops.shape_law import ShapeLaw
from mfu_callback.tools.nested import parts_of

_ENOUGH_COUNTS = 32  # shapes for one state of the model after which a law may tell the FLOPs of further ones
_MOST_COUNTS = 256  # counted shapes for one state of the model, if no law does
_SMALL_ERROR = 0.01  # of a law that is believed
_LARGE_ERROR = 0.25  # of a law beyond which the most similar batch tells more
_SHORT = 100
_TENSOR = torch.Tensor
_MOST_TRIES = 3  # for one shape whose counts find nothing (a training_step that returns None)


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
        shapes: The shapes of all tensors, in order.
        elements: Number of elements of the first tensor, which is the model's input.
        samples: The first dimension of the first tensor that has dimensions; 1 if none has.
    """

    structure: Hashable
    shapes: tuple[tuple[int, ...], ...]
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
    return BatchShape(structure, tuple(shapes), math.prod(next(iter(shapes), (0,))), samples)


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

    Once enough shapes are counted, a law tells the FLOPs of others (`ShapeLaw`); where it is off by more than 1 %, more
    are counted, each time a quarter more.

    Args:
        training_flops: Returns the training FLOPs of a count, or None if the count found nothing.

    Attributes:
        model_state: The state of the model, such as its frozen parameters; counts hold for one state alone.
        error_of_law: The largest relative error of FLOPs that were not counted; infinite if it is not known, None if
            there are none.
    """

    def __init__(self, training_flops: Callable[[FlopCount], TrainingFlops | None]) -> None:
        self.error_of_law: float | None = None
        self._training_flops = training_flops
        self._of_state: dict[Hashable, _Counts] = defaultdict(_Counts)
        self.model_state: Hashable = None

    @property
    def _counts(self) -> _Counts:
        return self._of_state[self.model_state]

    def needs_count(self, shape: BatchShape) -> bool:
        """Whether a batch of this shape must be counted."""
        return shape not in self._counts.known and not self._counts.are_enough(shape)

    def add(self, shape: BatchShape, count: FlopCount) -> bool:
        """Store the count of a batch of this shape. A count that found nothing may be repeated a few times.

        Returns:
            False if it found nothing for the last time, so that the FLOPs stay unknown.
        """
        counts, found = self._counts, self._training_flops(count)
        if found is None:
            counts.tries[shape] += 1
            if counts.tries[shape] < _MOST_TRIES:
                return True
        if found is None:
            counts.known[shape] = UNKNOWN
            return False
        counts.repeated[shape].add(found)
        counts.known[shape] = counts.repeated[shape].mean
        return True

    @property
    def error(self) -> float | None:
        """The largest relative error of FLOPs that are a law's, or a mean of unequal counts; None if none are."""
        errors = [counts.error for counts in self._counts.repeated.values() if counts.vary]
        errors += [] if self.error_of_law is None else [self.error_of_law]
        return max(errors, default=None)

    def repeated(self, shape: BatchShape) -> RepeatedCounts | None:
        """All counts of a shape; None if it was not counted, or nothing was found."""
        return self._counts.repeated.get(shape)

    def give_up(self, shape: BatchShape) -> None:
        """Store the FLOPs of this shape as unknown."""
        self._counts.known[shape] = UNKNOWN

    def flops(self, shape: BatchShape) -> TrainingFlops:
        """FLOPs of a batch: as counted, or told by those that were counted once these are enough."""
        known = self._counts.known.get(shape)
        if known is not None:
            return known
        flops, error = self._counts.told(shape)
        if not self.needs_count(shape):  # else it is told for now alone
            self.error_of_law = max(self.error_of_law or 0.0, error)
        return flops


class _Counts:
    """The counts for one state of the model."""

    def __init__(self) -> None:
        self.known: dict[BatchShape, TrainingFlops] = {}
        self.repeated: dict[BatchShape, RepeatedCounts] = defaultdict(RepeatedCounts)
        self.tries: Counter[BatchShape] = Counter()
        self._laws: dict[Hashable, tuple[int, ShapeLaw]] = {}  # by structure, with the number of counts

    def are_enough(self, shape: BatchShape) -> bool:
        """Whether a batch of a new shape is not counted."""
        number = len(self.known)
        return number >= _MOST_COUNTS or (number >= _ENOUGH_COUNTS and self._law(shape).error <= _SMALL_ERROR)

    def told(self, shape: BatchShape) -> tuple[TrainingFlops, float]:
        """The FLOPs of a shape that was not counted, and their relative error."""
        alike = self._alike(shape)
        if not alike:
            return UNKNOWN, math.inf
        nearest, flops = min(alike, key=lambda row: abs(row[0].elements_per_sample - shape.elements_per_sample))
        law = self._law(shape)
        if law.error > _LARGE_ERROR:
            return flops.times(shape.elements / nearest.elements), math.inf
        return flops.times(law.flops(shape.samples, shape.shapes) / flops.model), law.error

    def _law(self, shape: BatchShape) -> ShapeLaw:
        """The law of a structure, fitted again once there are a quarter more counts."""
        number, law = self._laws.get(shape.structure, (0, None))
        if law is None or len(self.known) >= 1.25 * number:
            counted, flops = zip(*self._alike(shape), strict=True) if self._alike(shape) else ((), ())
            law = ShapeLaw(
                [one.samples for one in counted], [one.shapes for one in counted], [one.model for one in flops]
            )
            self._laws[shape.structure] = len(self.known), law
        return law

    def _alike(self, shape: BatchShape) -> list[tuple[BatchShape, TrainingFlops]]:
        """Counted shapes of the same structure that have FLOPs."""
        return [
            (known, flops)
            for known, flops in self.known.items()
            if known.structure == shape.structure and known.elements and flops.model > 0
        ]
