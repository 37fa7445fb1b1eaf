"""Predicts memory and batch size, without the device and before any trial."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

from mfu_callback.finder.options import DEFAULT_MAX_SIZE, check_whole
from mfu_callback.finder.prediction.fake_step import FakeStep, MakeOptimizer
from mfu_callback.finder.prediction.memory import MemoryPrediction
from mfu_callback.finder.prediction.memory_lines import MemoryLines
from mfu_callback.finder.search import Outcome, find_largest
from mfu_callback.lightning.namespaces import is_lightning_module
from mfu_callback.tools.errors import named

# Memory of a device that is assumed to be used besides the step's tensors: its context and the libraries' workspaces,
# and what the allocator loses by rounding. Assumptions, not measurements.
CONTEXT_BYTES = 2**30
ROUNDING_SHARE = 0.05
_T = TypeVar("_T")
_UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


class PredictionError(RuntimeError):
    """The step could not be run on fake tensors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSizePrediction:
    """The largest batch that is predicted to fit in a given memory.

    Attributes:
        batch_size: Samples in the batch; 0 if not even the smallest fits.
        memory_bytes: The given memory.
        reserve_bytes: The part of it that was reserved for other things than the step's tensors.
        peak: The peak memory of a step with that batch, by part; with the smallest if not even that fits.
    """

    batch_size: int
    memory_bytes: int
    reserve_bytes: int
    peak: MemoryPrediction


def predict_memory(
    module: nn.Module,
    batch: Any,
    *,
    batch_size: int | None = None,
    optimizer: MakeOptimizer | None = None,
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> MemoryPrediction:
    """Predicts the peak memory of a training step with fake tensors: no memory is used, and nothing is computed.

    Every tensor of the second step (forward pass, backward pass and optimizer) is tracked, as a CPU's operators create
    it. Memory that an operator allocates internally is not seen. Module, batch and random state stay as they are.

    Args:
        module: A LightningModule, whose ``training_step`` and ``configure_optimizers`` are used; or any other module,
            whose forward pass is called with the batch (a mapping as keywords, a list or tuple as arguments) and whose
            loss is the sum of its floating-point outputs. It may be on the meta device.
        batch: A batch. Tensors and lists that are as long as the batch are changed to ``batch_size``.
        batch_size: Samples in the batch; None for the batch's own size.
        optimizer: A function from a list of parameters to their optimizer. By default the optimizers of a
            LightningModule, and AdamW for any other module.
        context: Returns the context of the forward pass, such as ``lambda: torch.autocast("cpu", torch.bfloat16)``.

    Raises:
        ValueError: If ``batch_size`` is no whole number of at least 1.
        PredictionError: If the step cannot be run on fake tensors: because it reads values (``.item()``), needs a
            Trainer, or steps its optimizers itself.

    Example:
        >>> predict_memory(nn.Linear(1000, 1000), torch.zeros(10, 1000)).parameters
        4004000
    """
    if batch_size is not None:
        check_whole("batch_size", batch_size, or_else="leave it out for the batch's own size")
    step = fake_step(module, batch, make_optimizer=optimizer, context=context)
    return _peak(step, batch_size or max(1, step.own_size))


def predict_batch_size(
    module: nn.Module,
    batch: Any,
    memory: int | str = "80GiB",
    *,
    reserve: int | None = None,
    optimizer: MakeOptimizer | None = None,
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    max_size: int = DEFAULT_MAX_SIZE,
    multiple_of: int = 1,
) -> BatchSizePrediction:
    """Predicts the largest batch that fits in a device's memory, with fake tensors (`predict_memory`).

    For a CPU's budget the prediction is close to what is measured. For another device it is an estimate: its attention
    kernels keep other tensors, its allocator rounds sizes, and its libraries need workspaces. A reserve is subtracted
    for these.

    Args:
        module: As for `predict_memory`.
        batch: As for `predict_memory`.
        memory: Bytes, or text such as "80GiB", "24 GB".
        reserve: Bytes to subtract; by default 1 GiB plus 5 % of the memory. Use 0 for a CPU's budget.
        optimizer: As for `predict_memory`.
        context: As for `predict_memory`.
        max_size: The largest size to consider.
        multiple_of: Only multiples of this number are considered: for a model that takes no other sizes.

    Raises:
        ValueError: If ``memory`` is not a size, or is not larger than the reserve, or another argument is of another
            type or out of its range.
        PredictionError: If the step cannot be run on fake tensors.
    """
    check_whole("max_size", max_size, or_else="leave it out")
    check_whole("multiple_of", multiple_of, or_else="leave it out to consider every size")
    if max_size < multiple_of:
        raise ValueError(
            f"max_size={max_size} is below multiple_of={multiple_of}, so no size is left. Raise max_size, or lower"
            " multiple_of."
        )
    if reserve is not None:
        check_whole("reserve", reserve, least=0, or_else="leave it out for 1 GiB plus 5 % of the memory")
    memory_bytes = bytes_of(memory)
    reserve_bytes = reserve_of(memory_bytes) if reserve is None else reserve
    usable = memory_bytes - reserve_bytes
    if usable <= 0:
        raise ValueError(
            f"memory={memory!r} is not above the reserve of {reserve_bytes:,} bytes. Give more memory, or reserve=0."
        )
    step = fake_step(module, batch, make_optimizer=optimizer, context=context)
    sizes = range(multiple_of, max_size + 1, multiple_of)
    found = largest_within(lambda size: _peak(step, size).total, usable, sizes=sizes)
    peak = _peak(step, found or multiple_of)
    return BatchSizePrediction(batch_size=found, memory_bytes=memory_bytes, reserve_bytes=reserve_bytes, peak=peak)


def reserve_of(memory_bytes: int) -> int:
    """Bytes of a device's memory to reserve for other things than the step's tensors: 1 GiB plus 5 %."""
    return CONTEXT_BYTES + int(ROUNDING_SHARE * memory_bytes)


def largest_within(
    peak_bytes: Callable[[int], int], usable_bytes: int, *, sizes: Sequence[int], lines: MemoryLines | None = None
) -> int:
    """The largest size whose peak is at most ``usable_bytes``; 0 if not even the smallest fits.

    Args:
        peak_bytes: Returns the peak of a size.
        usable_bytes: The limit of the peak.
        sizes: The sizes to consider, rising.
        lines: About what sizes use, in bytes, which saves calls; None if unknown.
    """

    def attempt(size: int) -> Outcome:
        total = peak_bytes(size)
        return Outcome(fits=total <= usable_bytes, used=total / usable_bytes)

    foreseen = None if lines is None else lines.shares_of(usable_bytes)
    return find_largest(attempt, sizes=sizes, foreseen=foreseen, resolution=0) or 0


def fake_step(module: nn.Module, batch: Any, **options: Any) -> FakeStep:
    """Create a `FakeStep`; every error is raised as a `PredictionError`.

    Raises:
        PredictionError: If the module steps its optimizers itself, or the step cannot be run on fake tensors.
    """
    if is_lightning_module(module) and not module.automatic_optimization:
        raise PredictionError(_failed("it steps its optimizers itself (manual optimization)"))
    return _explained(lambda: FakeStep(module, batch, **options))


def bytes_of(memory: int | str) -> int:
    """Bytes from a number or a text such as "80GiB" (2**30) or "80 GB" (10**9).

    Raises:
        ValueError: If it is neither.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(memory).lower())
    if isinstance(memory, bool) or match is None or match[2] not in _UNITS or float(match[1]) <= 0:
        raise ValueError(f"memory={memory!r} is not a size. Give bytes, or text such as '80GiB' or '24 GB'.")
    return int(float(match[1]) * _UNITS[match[2]])


def _peak(step: FakeStep, size: int) -> MemoryPrediction:
    """The peak of a size, at another than which the step has run."""
    return _explained(
        lambda: step.peak(size),
        where=f" (at batch size {size}; if the model takes only some sizes, pass predict_batch_size a multiple_of)",
    )


def _explained(run: Callable[[], _T], where: str = "") -> _T:
    try:
        return run()
    except Exception as error:  # the user's code may raise any error on tensors without data
        raise PredictionError(_failed(f"{named(error)}{where}")) from error


def _failed(why: str) -> str:
    return f"The training step could not be run on fake tensors: {why}. BatchSizeFinder runs real trials instead."
