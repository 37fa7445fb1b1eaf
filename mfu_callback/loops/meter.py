"""MFUMeter, the public measurement of a training loop of one's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import nn

from mfu_callback.loops.loggers import known_loggers
from mfu_callback.loops.measured_loop import Loop, MeasuredLoop
from mfu_callback.loops.process_group import ProcessGroup
from mfu_callback.loops.rank_messages import messages_of
from mfu_callback.meter.arguments import Arguments
from mfu_callback.meter.clock import Phase
from mfu_callback.meter.precision import matmul_dtype_of
from mfu_callback.meter.summary import Summary
from mfu_callback.tools.accelerators import is_device
from mfu_callback.tools.options import Option, checked, instance_of, one_of, whole

_Batch = TypeVar("_Batch")

# Blocks without a step of an optimizer after which each block is taken for a step.
_MOST_WITHOUT_STEP = 64
_PAUSES = {"validation": Phase.VALIDATION, "checkpoint": Phase.CHECKPOINT}

_NONE = one_of(None)
_OPTIONS = {
    "model": Option(
        "is no torch.nn.Module. Pass the model as the loop calls it, or several as torch.nn.ModuleList([...]).",
        instance_of(nn.Module),
        error=TypeError,
    ),
    "device": Option(
        "must be a device, for example 'cuda:0'; or None, which takes that of the model's parameters.", _NONE, is_device
    ),
    "dtype": Option(
        "must be a torch.dtype, for example torch.bfloat16; or None, which takes that of the model's parameters.",
        *(_NONE, instance_of(torch.dtype)),
    ),
    "fabric": Option(
        "must be a lightning.fabric.Fabric, or None.",
        *(_NONE, lambda value: all(hasattr(value, name) for name in ("device", "strategy", "loggers"))),
        error=TypeError,
    ),
    "directory": Option("must be the path of a directory, or None.", _NONE, instance_of(str, PathLike)),
}
_IS_LAST = Option(
    "must be True or False; or None, which asks whether an optimizer has stepped.", _NONE, instance_of(bool)
)
_PART = Option(f"is not known. Use one of {tuple(_PAUSES)}.", one_of(*_PAUSES))
_EVERY = Option("must be a number of optimizer steps, a whole one of at least 1.", whole(1))
_STEP = Option(
    "must be a whole number of at least 0; or None, which takes the optimizer steps so far.", _NONE, whole(0)
)


class MFUMeter:
    """Measures tokens/sec, MFU and where the rest of the machine went, in any training loop.

    Everything that `MFUCallback` measures under a Trainer: the FLOPs of the first batch of every shape, counted in the
    step that trains on it; every step by phases; the peak of the device. Phases are told by what runs in the block of
    a step: the call of the model, ``backward()``, the optimizer. An optimizer step ends a step; blocks without one are
    micro-batches of the next. Where torch.distributed is set up, figures are of all ranks, which then call `values` and
    `close` at the same points.

    Args:
        model: The model as the loop calls it, on its device: as it is, compiled, or in DDP. Of several models, a
            `torch.nn.ModuleList`.
        device: The device that trains. None takes that of the model's parameters.
        dtype: The dtype of the matmuls' inputs. None takes that of most parameters, and after the first count that of
            most FLOPs.
        loggers: Where `log` sends the values, and the card and the dashboard are written: loggers of Lightning or
            Fabric, or a `torch.utils.tensorboard.SummaryWriter`.
        fabric: A `lightning.fabric.Fabric`, whose device, precision and loggers are taken where none are given.
        directory: Where ``mfu_summary.json`` is written at the end. None takes that of the first logger that has one.
        arguments: The keywords of `MFUCallback`, which describes them.

    Attributes:
        summary: The figures of the whole run; None before `close`.

    Raises:
        ValueError: If an argument has a value that is not allowed.
        TypeError: If an argument is not known, or ``model``, ``fabric`` or a logger is something else.

    Example:
        >>> model = nn.Linear(8, 8)
        >>> optimizer = torch.optim.SGD(model.parameters(), 0.1)
        >>> loader = [torch.zeros(4, 8) for _ in range(8)]
        >>> with MFUMeter(model, peak=1e12, summary=None) as meter:
        ...     for batch in meter.fetch(loader):
        ...         with meter.step(batch):
        ...             model(batch).sum().backward()
        ...             optimizer.step()
        >>> meter.summary.steps  # the first three are warm-up, the first of them counts FLOPs
        5
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        loggers: Sequence[Any] = (),
        fabric: Any = None,
        directory: str | PathLike[str] | None = None,
        **arguments: Any,
    ) -> None:
        self.summary: Summary | None = None
        given = {"model": model, "device": device, "dtype": dtype, "fabric": fabric, "directory": directory}
        device = checked(_OPTIONS, given)["device"]
        if fabric is not None:
            device = fabric.device if device is None else device
            dtype = dtype or matmul_dtype_of(fabric.strategy.precision)
            loggers = loggers or fabric.loggers
        self._loop = Loop(
            model=model,
            device=None if device is None else torch.device(device),
            dtype=dtype,
            loggers=known_loggers(loggers),
            directory=None if directory is None else Path(directory),
            package=None if fabric is None else "lightning",
            kind="own" if fabric is None else "fabric",
        )
        self._arguments = Arguments.of("MFUMeter", arguments)
        self._made_at = perf_counter()
        self._ranks = ProcessGroup()
        self._messages = messages_of(self._ranks, "MFUMeter")
        self._measured: MeasuredLoop | None = None
        self._is_closed = False
        self._in_block = False
        self._without_step = 0
        self._steps = 0  # since the values were last asked for

    def fetch(self, loader: Iterable[_Batch]) -> Iterator[_Batch]:
        """Yield the batches of a loader of training data, and time the wait for each of them.

        Args:
            loader: Anything that yields batches.
        """
        return self._begun().fetch(loader)

    @contextmanager
    def step(self, batch: Any, *, is_last: bool | None = None) -> Iterator[None]:
        """A context for the forward pass, the backward pass and the optimizer step of a batch or a micro-batch.

        Args:
            batch: The batch that runs inside, whose tokens and samples are counted; no reference to it is kept.
            is_last: Whether the step ends with this block. None takes it to end if an optimizer steps in it.

        Raises:
            RuntimeError: If it is entered inside another one, or after `close`.
            ValueError: If ``is_last`` is another value.
        """
        is_last = _IS_LAST.checked("is_last", is_last)
        if self._in_block:
            raise RuntimeError("MFUMeter.step() was entered inside another step(). Give each batch one block.")
        measured = self._begun()
        self._in_block = True
        try:
            with measured.block(batch):
                yield
        finally:
            self._in_block = False
        if self._is_over(measured, is_last):
            measured.end_step()
            self._steps += 1

    @contextmanager
    def pause(self, part: str = "validation") -> Iterator[None]:
        """A context whose time is not training: a validation, or the writing of a checkpoint.

        Args:
            part: What it is booked as: "validation" or "checkpoint".

        Raises:
            ValueError: If ``part`` is another one.
        """
        with self._begun().during(_PAUSES[_PART.checked("part", part)]):
            yield

    def due(self, every: int) -> bool:
        """Whether so many optimizer steps have ended since the values were last asked for.

        Args:
            every: Number of steps.

        Raises:
            ValueError: If that is no whole number of at least 1.
        """
        return self._steps >= _EVERY.checked("every", every) and not self._begun().in_step

    def values(self) -> dict[str, float]:
        """The values by tag since the last call, the same on every rank; empty as long as no step was measured."""
        self._steps = 0
        return self._begun().values()

    def log(self, step: int | None = None) -> dict[str, float]:
        """Send the values since the last call to the loggers. On several ranks, all of them call it.

        Args:
            step: The step that they belong to. None takes the number of optimizer steps so far.

        Returns:
            The values by tag (`values`).

        Raises:
            ValueError: If the step is no whole number of at least 0.
        """
        step = _STEP.checked("step", step)
        values, measured = self.values(), self._begun()
        measured.log(values, measured.steps if step is None else step)
        return values

    def close(self) -> Summary:
        """End the measurement, print the summary as ``summary=`` says, and write it to the directory.

        Returns:
            The figures of the whole run; without a step if nothing was measured.
        """
        if self.summary is None and self._is_closed:  # an exception has ended it, before anything could be summed up
            self.summary = Summary(steps=0)
        if self.summary is None:
            measured = self._begun()
            self._is_closed = True
            if not measured.steps and self._without_step:
                self._warn_without_step("no step was measured")
            self.summary = measured.finish()
        return self.summary

    def __enter__(self) -> MFUMeter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        elif not self._is_closed:
            self._is_closed = True
            self.summary = None if self._measured is None else self._measured.break_off()

    def _begun(self) -> MeasuredLoop:
        """The measurement, which begins when it is asked for first: by then the model is where it will train."""
        if self._is_closed:
            raise RuntimeError("This MFUMeter was closed. Make a new one for another run.")
        if self._measured is None:
            made_at = self._made_at
            self._measured = MeasuredLoop(self._loop, self._arguments, self._ranks, self._messages, made_at=made_at)
        return self._measured

    def _is_over(self, measured: MeasuredLoop, is_last: bool | None) -> bool:
        if is_last is not None:
            return is_last
        if measured.has_stepped:
            self._without_step = 0
            return True
        self._without_step += 1
        if self._without_step < _MOST_WITHOUT_STEP:
            return False
        self._warn_without_step("each block is taken for a step from now on")
        return True

    def _warn_without_step(self, consequence: str) -> None:
        self._messages.warn_once(
            "no step",
            f"No optimizer of torch's has stepped in {self._without_step} blocks of MFUMeter.step(), so {consequence}."
            " Call optimizer.step() inside of the block, or pass is_last=True to step() where a step ends, and"
            " is_last=False elsewhere.",
        )
