"""One trial: two full training steps at one batch size, under the limit."""

from __future__ import annotations

import gc
import random
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.utilities.parsing import lightning_setattr
from torch import Tensor
from torch.utils.data import DataLoader

from mfu_callback import _lightning
from mfu_callback.finder.limit import MemoryLimit, is_out_of_memory
from mfu_callback.finder.samples import make_batch
from mfu_callback.finder.snapshot import Snapshot, training_state

_STEPS = 2  # the optimizer's state is there from the second on
_MOST_MANUAL_STEPS = 64  # of manual optimization, until every optimizer has stepped


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What came of one batch size.

    Attributes:
        size: Samples in the batch.
        fits: Whether two training steps ran within the limit.
        seconds: How long they took.
        peak_bytes: The most memory that they took, model included; None where it cannot be told.
    """

    size: int
    fits: bool
    seconds: float
    peak_bytes: int | None


class Trials:
    """Runs trials on a model and leaves no trace of them.

    Args:
        trainer: A Trainer about to fit; optimizers exist and the model is on its device.
        pl_module: The model.
        loader: Whose data set and collate function make the batches; it is never iterated.
        limit: The memory that a trial may take.
    """

    def __init__(
        self, trainer: Trainer, pl_module: LightningModule, loader: DataLoader[Any], limit: MemoryLimit
    ) -> None:
        self.done: list[Trial] = []
        self._trainer: Any = trainer
        self._pl_module = pl_module
        self._loader = loader
        self._limit = limit

    @contextmanager
    def prepared(self, warmup_size: int) -> Iterator[None]:
        """A context for trials: they run unseen by callbacks and loggers, and everything is put back after it.

        What only the first steps of a process take (lazy imports, threads, kernels) is taken first, without a limit:
        under one it would fail half-way and break the process.
        """
        with _unseen(self._trainer), _random_state_kept(), _quick_collections(), torch.enable_grad():
            self._snapshot = self._take_snapshot()
            try:
                self._steps(self._batch(warmup_size))
                self._clean_up()
                self._limit.calibrate(_cpu_bytes(self._pl_module))
                yield
            finally:
                self._clean_up()

    def fits(self, size: int) -> bool:
        """Run one trial and keep what came of it."""
        start = perf_counter()
        fits = self._attempt(size)
        seconds = perf_counter() - start
        self.done.append(Trial(size=size, fits=fits, seconds=seconds, peak_bytes=self._limit.peak_bytes()))
        self._clean_up()
        return fits

    def _attempt(self, size: int) -> bool:
        try:
            batch = self._batch(size)
            with self._limit.enforced():
                self._steps(batch)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)  # the frames hold on to the tensors
            return False
        return True

    def _clean_up(self) -> None:
        self._snapshot.restore()
        self._limit.free()

    def _take_snapshot(self) -> Snapshot:
        loader = self._loader
        asked = [loader, loader.dataset, loader.sampler, loader.batch_sampler, self._trainer.datamodule]
        holders = _lightning.batch_size_holders(self._pl_module)
        return Snapshot(
            [*training_state(self._trainer, self._pl_module), *(h for h in holders if isinstance(h, dict))], asked
        )

    def _batch(self, size: int) -> Any:
        lightning_setattr(self._pl_module, "batch_size", size)
        return make_batch(self._loader, size)

    def _steps(self, batch: Any) -> None:
        for name in ("log", "log_dict"):  # they raise outside of the Trainer's loops; the snapshot puts them back
            setattr(self._pl_module, name, _do_nothing)
        batch = _lightning.move_batch(self._trainer, batch)
        if self._pl_module.automatic_optimization:
            self._automatic_steps(batch)
        else:
            self._manual_steps(batch)

    def _automatic_steps(self, batch: Any) -> None:
        micro_batches = self._trainer.accumulate_grad_batches
        for step in range(_STEPS):
            for index in sorted({0, micro_batches - 1}):  # those between take no more than the last
                self._micro_batch(batch, step * micro_batches + index, is_last=index == micro_batches - 1)

    def _manual_steps(self, batch: Any) -> None:
        # The module steps its optimizers when it wants to: often after some micro-batches of its own.
        stepped: set[Any] = set()
        for optimizer in self._trainer.optimizers:
            optimizer.register_step_post_hook(lambda optimizer, *_: stepped.add(optimizer))  # undone by the snapshot
        for batch_idx in range(_MOST_MANUAL_STEPS):
            self._training_step(batch, batch_idx)
            if batch_idx + 1 >= _STEPS and len(stepped) == len(self._trainer.optimizers):
                return

    def _micro_batch(self, batch: Any, batch_idx: int, *, is_last: bool) -> None:
        module = self._pl_module
        optimizer: Any = module.optimizers(use_pl_optimizer=True)
        closure = partial(self._forward_backward, batch, batch_idx, optimizer)
        if is_last:
            module.optimizer_step(self._trainer.current_epoch, batch_idx, optimizer, closure)
        else:
            closure()

    @torch.enable_grad()
    def _forward_backward(self, batch: Any, batch_idx: int, optimizer: Any) -> Tensor | None:
        output = self._training_step(batch, batch_idx)
        # The last step's gradients live until after the forward pass, as in training: both take memory at once.
        if batch_idx % self._trainer.accumulate_grad_batches == 0:
            self._pl_module.on_before_zero_grad(optimizer)
            self._pl_module.optimizer_zero_grad(self._trainer.current_epoch, batch_idx, optimizer)
        loss: Tensor | None = output["loss"] if isinstance(output, Mapping) else output
        if loss is None:
            return None
        loss = loss / self._trainer.accumulate_grad_batches
        self._trainer.strategy.backward(loss, optimizer)
        return loss.detach()

    def _training_step(self, batch: Any, batch_idx: int) -> Any:
        arguments = _lightning.training_step_arguments(self._pl_module, batch, batch_idx)
        return self._trainer.strategy.training_step(*arguments)


@contextmanager
def _unseen(trainer: Any) -> Iterator[None]:
    """Take callbacks, loggers and the profiler away from a Trainer."""
    callbacks, loggers, profiler = trainer.callbacks, trainer.loggers, trainer.profiler
    trainer.callbacks, trainer.profiler = [], PassThroughProfiler()
    trainer.loggers = [DummyLogger() for _ in loggers]
    try:
        yield
    finally:
        trainer.callbacks, trainer.loggers, trainer.profiler = callbacks, loggers, profiler


@contextmanager
def _quick_collections() -> Iterator[None]:
    # Each trial ends with a full collection, of which what was there before takes the most time: a fifth of a second.
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def _random_state_kept() -> Iterator[None]:
    # Lightning's isolate_rng puts nothing back after an exception.
    python, array = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(array)


def _do_nothing(*args: Any, **kwargs: Any) -> None:
    pass


def _cpu_bytes(pl_module: LightningModule) -> int:
    tensors = {id(t): t for t in (*pl_module.parameters(), *pl_module.buffers()) if t.device.type == "cpu"}
    return sum(tensor.nbytes for tensor in tensors.values())
