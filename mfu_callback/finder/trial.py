"""One trial: two full training steps at one batch size, under the limit."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from time import perf_counter
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from mfu_callback import _lightning
from mfu_callback._brackets import Brackets
from mfu_callback.finder.limit import MemoryLimit, is_out_of_memory
from mfu_callback.finder.snapshot import Snapshot

_STEPS = 2  # the optimizer's state is there from the second on


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
        trainer, callbacks = self._trainer, self._trainer.callbacks
        with isolate_rng(), _logging_nothing(self._pl_module), torch.enable_grad():
            self._snapshot = Snapshot(trainer, self._pl_module)
            try:
                trainer.callbacks = []
                self._steps(self._batch(warmup_size))
                self._clean_up()
                self._limit.calibrate(_cpu_bytes(self._pl_module))
                yield
            finally:
                trainer.callbacks = callbacks
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

    def _batch(self, size: int) -> Any:
        dataset = self._loader.dataset
        if isinstance(dataset, IterableDataset):
            samples = list(islice(cycle(dataset), size))
        else:
            samples = [dataset[index % len(dataset)] for index in range(size)]  # type: ignore[arg-type]
        return self._loader.collate_fn(samples)

    def _steps(self, batch: Any) -> None:
        batch = _lightning.move_batch(self._trainer, batch)
        step = self._automatic_step if self._pl_module.automatic_optimization else self._training_step
        for _ in range(_STEPS):
            step(batch)

    def _training_step(self, batch: Any) -> Any:
        return self._trainer.strategy.training_step(*_lightning.training_step_arguments(self._pl_module, batch))

    def _automatic_step(self, batch: Any) -> None:
        module = self._pl_module
        optimizer: Any = module.optimizers(use_pl_optimizer=True)
        epoch = self._trainer.current_epoch
        module.optimizer_zero_grad(epoch, 0, optimizer)
        for _ in range(min(self._trainer.accumulate_grad_batches, 2) - 1):
            self._forward_backward(batch, optimizer)
        module.optimizer_step(epoch, 0, optimizer, lambda: self._forward_backward(batch, optimizer))

    def _forward_backward(self, batch: Any, optimizer: Any) -> Tensor | None:
        output = self._training_step(batch)
        loss: Tensor | None = output["loss"] if isinstance(output, dict) else output
        if loss is None:
            return None
        loss = loss / self._trainer.accumulate_grad_batches
        self._trainer.strategy.backward(loss, optimizer)
        return loss.detach()


@contextmanager
def _logging_nothing(pl_module: LightningModule) -> Iterator[None]:
    brackets = Brackets()
    for method in ("log", "log_dict"):  # outside of the Trainer's loops they raise
        brackets.put(pl_module, method, lambda _: lambda *args, **kwargs: None)
    try:
        yield
    finally:
        brackets.remove()


def _cpu_bytes(pl_module: LightningModule) -> int:
    tensors = {id(t): t for t in (*pl_module.parameters(), *pl_module.buffers()) if t.device.type == "cpu"}
    return sum(tensor.nbytes for tensor in tensors.values())
