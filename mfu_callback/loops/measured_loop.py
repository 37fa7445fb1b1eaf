"""One measured loop: all state that exists only while it runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from mfu_callback.board.facts import RunFacts
from mfu_callback.board.run_board import Board
from mfu_callback.board.run_directory import directory_of
from mfu_callback.board.run_facts import facts_of
from mfu_callback.board.serving import prometheus_of
from mfu_callback.flops.rules.shards import group_size
from mfu_callback.loops.blocks import Blocks
from mfu_callback.loops.ending import show_summary
from mfu_callback.loops.loggers import event_writers, log_values
from mfu_callback.loops.unwrapped import ddp_of, device_of, dtype_of, unwrapped
from mfu_callback.meter.arguments import Arguments
from mfu_callback.meter.circumstances import Circumstances
from mfu_callback.meter.clock import Phase, timer_for
from mfu_callback.meter.known_circumstances import known_circumstances
from mfu_callback.meter.measurement import Measurement
from mfu_callback.meter.messages import Messages
from mfu_callback.meter.meter import RunMeter
from mfu_callback.meter.ranks import Ranks
from mfu_callback.meter.summary import Summary
from mfu_callback.peaks.peak import dtype_name

_Batch = TypeVar("_Batch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """What a loop has told of itself; None is found out.

    Attributes:
        model: The model as it is called.
        device: The device that trains.
        dtype: The dtype of the matmuls' inputs.
        loggers: Where values are sent.
        directory: Where the summary is written.
        package: What pip installs the loop's package by; None for a loop of one's own.
        kind: The kind of the loop: a key of `mfu_callback.meter.loop_settings.LOOP_SETTINGS`.
    """

    model: nn.Module
    device: torch.device | None
    dtype: torch.dtype | None
    loggers: Sequence[Any]
    directory: Path | None
    package: str | None = None
    kind: str = "own"


class MeasuredLoop:
    """Measures the blocks of a loop.

    Args:
        loop: What is known of the loop, whose model is where it trains by now.
        arguments: The arguments of `MFUCallback`.
        ranks: The processes.
        messages: Says what was found.
        made_at: When the run began, by the host's clock, in seconds.

    Attributes:
        steps: Optimizer steps so far.
    """

    def __init__(self, loop: Loop, arguments: Arguments, ranks: Ranks, messages: Messages, *, made_at: float) -> None:
        self.steps = 0
        self._loop, self._arguments, self._ranks = loop, arguments, ranks
        self._module = unwrapped(loop.model)
        self._device = loop.device or device_of(self._module)
        self._is_first = ranks.index == 0
        self._blocks_of_step = 0
        self._fetched: list[Any] = []  # the loaders of the latest loop, so that those of earlier epochs can go
        self._fetching = 0
        self._messages = messages
        timer = timer_for(self._device)
        one = self._measurement = Measurement(
            self._module, self._device, timer, arguments, ranks, messages, loop=loop.kind
        )
        self._clock, self._meter = one.clock, one.meter
        self._clock.made_at = made_at
        self._start()
        self._blocks = Blocks(one, loop.model, self._module, self._device, timer, messages)
        self._board = self._made_board(messages)
        self._prometheus = prometheus_of(loop.loggers, arguments, messages, is_first=self._is_first)
        self._prometheus.start()
        self._meter.device_watch.restart()
        self._meter.ledger.assign_rest("setup")
        self._clock.start()

    def _start(self) -> None:
        shared = group_size(self._module)
        self._measurement.start(
            self._loop.dtype or dtype_of(self._module),
            ddp_of(self._loop.model),
            ranks_per_batch=self._arguments.ranks_per_batch or shared,
            tensor_parallel=shared,
        )

    @property
    def in_step(self) -> bool:
        """Whether a step has begun and not ended."""
        return self._blocks_of_step > 0

    @property
    def has_stepped(self) -> bool:
        """Whether an optimizer has stepped in the latest block."""
        return self._blocks.phases.has_stepped

    def during(self, phase: Phase) -> Any:
        """A context whose time belongs to a phase."""
        return self._clock.during(phase)

    def fetch(self, loader: Iterable[_Batch]) -> Iterator[_Batch]:
        """Yield the batches of a loader, and time the wait for each of them; in a pause it is the pause's."""
        if self._clock.phase in (Phase.VALIDATION, Phase.CHECKPOINT):
            yield from loader
            return
        self._measurement.counting.forget_state()  # of frozen parameters: a new epoch may have thawed some
        if not self._fetching:
            self._fetched.clear()
        self._fetched.append(loader)
        self._fetching += 1
        try:
            yield from self._timed(loader)
        finally:
            self._fetching -= 1

    def _timed(self, loader: Iterable[_Batch]) -> Iterator[_Batch]:
        with self._clock.during(Phase.DATA):
            batches = iter(loader)
        while True:
            with self._clock.during(Phase.DATA):
                try:
                    batch = next(batches)
                except StopIteration:
                    return
            yield batch

    @contextmanager
    def block(self, batch: Any) -> Iterator[None]:
        """A context for a batch or a micro-batch, which is left out of the figures if it raises."""
        if not self.in_step:
            self._meter.begin_step()
        self._blocks_of_step += 1
        with self._waits_seen(), self._blocks.block(batch):
            yield

    def end_step(self) -> None:
        """End the step of the latest blocks."""
        if not self.steps:
            self._say_if_only_forward()
        measurement = self._measurement
        measurement.end_step()
        self._prometheus.end_step()
        if measurement.waits is not None:
            measurement.waits.suspend()
        if not self._board.is_shown:
            with self._clock.during(Phase.REPORT):
                self._board.show(self._meter)
        self._blocks_of_step = 0
        self.steps += 1

    def values(self) -> dict[str, float]:
        """The values of all ranks since the last call, by tag."""
        self._measurement.counting.forget_state()
        values = self._measurement.take_values()
        self._prometheus.show(values)
        return values

    def log(self, values: dict[str, float], step: int) -> None:
        """Send values to the loggers, from the first rank alone."""
        if not values or not self._is_first:
            return
        with self._clock.during(Phase.REPORT):
            log_values(self._loop.loggers, values, step)
            if not self._board.has_dashboard:
                self._board.show_dashboard(values)

    def finish(self) -> Summary:
        """Sum up the run over all ranks and show it."""
        self._prometheus.stop()
        summary = self._measurement.finish(self._circumstances)
        self._show(summary)
        return summary

    def break_off(self) -> Summary | None:
        """Sum up after an exception; None if other ranks are needed."""
        self._prometheus.stop()
        summary = self._measurement.break_off(self._circumstances)
        self._show(summary)
        return summary

    @contextmanager
    def _waits_seen(self) -> Iterator[None]:
        waits = self._measurement.waits
        if waits is None:
            yield
            return
        waits.resume()
        try:
            yield
        finally:
            waits.suspend()

    def _say_if_only_forward(self) -> None:
        count, factor = self._meter.flops.first, self._arguments.backward_factor
        is_forward = count is not None and count.forward > 0 and not count.backward
        if is_forward and not self._blocks.phases.has_run_backward and factor not in ("measured", 0):
            self._messages.warn_once(
                "only forward",
                "No backward pass ran in the first step, but the FLOPs of one are counted with those of forward, so"
                " model FLOPs and MFU are too high. Pass backward_factor=0 for a loop that runs forward alone.",
            )

    def _show(self, summary: Summary | None) -> None:
        if self._is_first and summary is not None:
            show_summary(summary, self._arguments, self._board)
        self._board.close()

    def _made_board(self, messages: Messages) -> Board:
        loggers = self._loop.loggers if self._is_first and self._arguments.board else ()
        return Board(
            loggers,
            lambda: event_writers(loggers),
            self._facts_of,
            lambda: filter(None, [self._loop.directory or directory_of(self._loop.loggers)]),
            lambda: self.steps,
            messages.warn_once,
        )

    def _facts_of(self, meter: RunMeter) -> RunFacts:
        return facts_of(
            self._module,
            meter,
            device=self._device,
            devices=self._ranks.size,
            precision=dtype_name(self._measurement.peak.dtype),
            strategy=type(ddp_of(self._loop.model)).__name__ if self._ranks.size > 1 else "one process",
            accumulate_grad_batches=self._blocks_of_step,
            loop=self._loop.package,
        )

    def _circumstances(self) -> Circumstances:
        return known_circumstances(
            self._loop.model,
            loop=self._loop.kind,
            batch_size=self._meter.batches.size,
            device=lambda: self._device.type,
            processes=lambda: self._ranks.on_this_machine,
            loaders=lambda: self._fetched,
            optimizers=lambda: self._blocks.phases.optimizers,
        )
