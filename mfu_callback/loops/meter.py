"""MFUMeter, the public measurement of a training loop of one's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import nn

from mfu_callback.flops.rules.shards import group_size
from mfu_callback.loops.phases import LoopPhases
from mfu_callback.loops.process_group import ProcessGroup
from mfu_callback.loops.rank_messages import messages_of
from mfu_callback.loops.sampling import ModuleSampling, OperatorSampling
from mfu_callback.loops.unwrapped import ddp_of, device_of, dtype_of, unwrapped
from mfu_callback.meter.arguments import Arguments
from mfu_callback.meter.circumstances import Circumstances
from mfu_callback.meter.clock import Phase, timer_for
from mfu_callback.meter.known_circumstances import known_circumstances
from mfu_callback.meter.measurement import Measurement
from mfu_callback.meter.summary import Summary
from mfu_callback.report.end_of_fit import print_summary

_Batch = TypeVar("_Batch")

# Blocks without a step of an optimizer after which each block is taken for a step.
_MOST_WITHOUT_STEP = 64
_PAUSES = {"validation": Phase.VALIDATION, "checkpoint": Phase.CHECKPOINT}


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
        directory: Where ``mfu_summary.json`` is written at the end; None writes none.
        arguments: The keywords of `MFUCallback`, which describes them.

    Attributes:
        summary: The figures of the whole run; None before `close`.

    Raises:
        ValueError: If an argument has a value that is not allowed.
        TypeError: If an argument is not known.

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
        directory: str | Path | None = None,
        **arguments: Any,
    ) -> None:
        self.summary: Summary | None = None
        self._model = model
        self._arguments = Arguments(**arguments)
        self._device = None if device is None else torch.device(device)
        self._dtype = dtype
        self._directory = None if directory is None else Path(directory)
        self._made_at = perf_counter()
        self._ranks = ProcessGroup()
        self._messages = messages_of(self._ranks, "MFUMeter")
        self._measurement: Measurement | None = None
        self._is_closed = False
        self._in_block = self._in_step = False
        self._without_step = 0
        self._steps = 0  # since values() were last asked for
        self._loaders: list[Any] = []

    def fetch(self, loader: Iterable[_Batch]) -> Iterator[_Batch]:
        """Yield the batches of a loader of training data, and time the wait for each of them.

        Args:
            loader: Anything that yields batches.
        """
        measurement = self._begun()
        measurement.counting.forget_state()  # of frozen parameters: a new epoch may have thawed some
        if not any(loader is one for one in self._loaders):
            self._loaders.append(loader)
        with measurement.clock.during(Phase.DATA):
            batches = iter(loader)
        while True:
            with measurement.clock.during(Phase.DATA):
                try:
                    batch = next(batches)
                except StopIteration:
                    return
            yield batch

    @contextmanager
    def step(self, batch: Any, *, is_last: bool | None = None) -> Iterator[None]:
        """A context for the forward pass, the backward pass and the optimizer step of a batch or a micro-batch.

        Args:
            batch: The batch that runs inside, whose tokens and samples are counted; no reference to it is kept.
            is_last: Whether the step ends with this block. None takes it to end if an optimizer steps in it.

        Raises:
            RuntimeError: If it is entered inside another one, or after `close`.
        """
        if self._in_block:
            raise RuntimeError("MFUMeter.step() was entered inside another step(). Give each batch one block.")
        measurement = self._begun()
        if not self._in_step:
            measurement.meter.begin_step()
            self._in_step = True
        measurement.meter.look_at(batch)
        self._in_block = True
        try:
            with ExitStack() as stack:
                self._watch(stack, measurement)
                yield
        except BaseException:
            measurement.meter.leave_out("rest")  # of a step that was broken off, nothing is known
            raise
        finally:
            self._in_block = False
        measurement.meter.add_forward()
        if self._is_over(is_last):
            measurement.end_step()
            if measurement.waits is not None:
                measurement.waits.suspend()
            self._in_step = False
            self._steps += 1

    @contextmanager
    def pause(self, part: str = "validation") -> Iterator[None]:
        """A context whose time is not training: a validation, or the writing of a checkpoint.

        Args:
            part: What it is booked as: "validation" or "checkpoint".

        Raises:
            ValueError: If ``part`` is another one.
        """
        if part not in _PAUSES:
            raise ValueError(f"part={part!r} is not known. Use one of {tuple(_PAUSES)}.")
        with self._begun().clock.during(_PAUSES[part]):
            yield

    def due(self, every: int) -> bool:
        """Whether so many optimizer steps have ended since the values were last asked for.

        Args:
            every: Number of steps.
        """
        return not self._in_step and self._steps >= every

    def values(self) -> dict[str, float]:
        """The values by tag since the last call, the same on every rank; empty as long as no step was measured."""
        measurement = self._begun()
        self._steps = 0
        measurement.counting.forget_state()
        return measurement.take_values()

    def close(self) -> Summary:
        """End the measurement, print the summary as ``summary=`` says and write it to the directory.

        Returns:
            The figures of the whole run; without a step if nothing was measured.
        """
        if self.summary is None:
            measurement = self._begun()
            self._is_closed = True
            self.summary = measurement.finish(self._circumstances)
            self._show(self.summary)
        return self.summary

    def __enter__(self) -> MFUMeter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        self._is_closed = True
        if self._measurement is not None and self.summary is None:
            self.summary = self._measurement.break_off(self._circumstances)
            if self.summary is not None:
                self._show(self.summary)

    def _begun(self) -> Measurement:
        """The measurement, which begins when it is asked for first: by then the model is where it will train."""
        if self._is_closed:
            raise RuntimeError("This MFUMeter was closed. Make a new one for another run.")
        if self._measurement is None:
            self._measurement = self._begin()
        return self._measurement

    def _begin(self) -> Measurement:
        inner = unwrapped(self._model)
        device = self._device = self._device or device_of(inner)
        timer = timer_for(device)
        one = Measurement(inner, device, timer, self._arguments, self._ranks, self._messages)
        one.clock.made_at = self._made_at
        shared = group_size(inner)
        one.start(
            self._dtype or dtype_of(inner),
            ddp_of(self._model),
            ranks_per_batch=self._arguments.ranks_per_batch or shared,
            tensor_parallel=shared,
        )
        self._phases = LoopPhases(one.clock, self._model, self._begin_backward)
        self._modules = ModuleSampling(one.meter, inner, timer) if self._arguments.modules else None
        self._operators = OperatorSampling(one.meter, device, self._messages) if self._arguments.operators else None
        one.meter.device_watch.restart()
        one.meter.ledger.assign_rest("setup")
        one.clock.start()
        return one

    def _watch(self, stack: ExitStack, measurement: Measurement) -> None:
        stack.enter_context(self._phases.watched())
        if (waits := measurement.waits) is not None:
            stack.callback(waits.suspend)
            waits.resume()
        if measurement.counting.is_due():
            stack.enter_context(measurement.counting.batch(passes=1))
        for sampling in (self._modules, self._operators):
            if sampling is not None:
                stack.enter_context(sampling.block())

    def _begin_backward(self, tensors: list[torch.Tensor]) -> None:
        waits = None if self._measurement is None else self._measurement.waits
        if waits is not None and tensors:
            waits.begin_backward(tensors[0])

    def _is_over(self, is_last: bool | None) -> bool:
        if is_last is not None:
            return is_last
        if self._phases.has_stepped:
            self._without_step = 0
            return True
        self._without_step += 1
        if self._without_step < _MOST_WITHOUT_STEP:
            return False
        self._messages.warn_once(
            "no step",
            f"No optimizer of torch's has stepped in {_MOST_WITHOUT_STEP} blocks of MFUMeter.step(), so each block is"
            " taken for a step from now on. Call optimizer.step() inside of the block, or pass is_last=True to step()"
            " where a step ends.",
        )
        return True

    def _circumstances(self) -> Circumstances:
        measurement, device = self._measurement, self._device
        assert measurement is not None
        assert device is not None
        return known_circumstances(
            self._model,
            batch_size=measurement.meter.batches.size,
            device=lambda: device.type,
            processes=lambda: self._ranks.on_this_machine,
            loaders=lambda: self._loaders,
            optimizers=lambda: self._phases.optimizers,
        )

    def _show(self, summary: Summary) -> None:
        style = self._arguments.summary
        if self._ranks.index == 0 and style is not None:
            with suppress(OSError, ValueError):  # a closed pipe or stream, a console of another encoding
                print_summary(summary, warmup_steps=self._arguments.warmup_steps, style=style)
