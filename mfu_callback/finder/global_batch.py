"""A fixed global batch: the samples of an optimizer step, divided over processes and micro-batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mfu_callback.lightning import namespaces, private_names
from mfu_callback.lightning.namespaces import MisconfigurationException

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


class GlobalBatch:
    """The samples that all processes together train in an optimizer step, whatever the micro-batches are.

    Args:
        trainer: The Trainer, whose ``accumulate_grad_batches`` is set.
        pl_module: The model.
        size: Samples in an optimizer step.
        multiple_of: Micro-batches are multiples of this number of samples.

    Raises:
        MisconfigurationException: If it cannot be divided evenly, or something else decides when optimizers step.
    """

    def __init__(self, trainer: Trainer, pl_module: LightningModule, size: int, *, multiple_of: int = 1) -> None:
        self.size = size
        self._trainer: Any = trainer
        self._multiple_of = multiple_of
        self._processes = trainer.world_size // private_names.tensor_parallel_size(trainer)
        self._check_who_steps(pl_module)
        self._check_division()

    @property
    def per_process(self) -> int:
        """Samples of one process in an optimizer step."""
        return self.size // self._processes

    def sizes(self, most: int) -> list[int]:
        """The micro-batches up to a size into which it can be divided evenly, rising.

        Raises:
            MisconfigurationException: If there is none.
        """
        own, unit = self.per_process, self._multiple_of
        sizes = [size for size in range(unit, min(most, own) + 1, unit) if own % size == 0]
        if not sizes:
            raise MisconfigurationException(
                f"global_batch_size={self.size} cannot be divided into micro-batches of at most {most} samples that are"
                f" multiples of {unit}. Raise max_size, or lower multiple_of."
            )
        return sizes

    def micro_batches(self, size: int) -> int:
        """How many micro-batches of a size make up the samples of one process, at least one."""
        return max(1, self.per_process // size)

    def put(self, size: int) -> None:
        """Have the Trainer accumulate as many micro-batches of a size."""
        self._trainer.accumulate_grad_batches = self.micro_batches(size)

    def describe(self, size: int) -> str:
        """How it is divided into micro-batches of a size, in words."""
        micro_batches = f"accumulate_grad_batches={self.micro_batches(size)}"
        return f"global_batch_size={self.size} is {self._devices} x {micro_batches} x batch_size={size}"

    @property
    def _devices(self) -> str:
        return f"{self._processes} device{'' if self._processes == 1 else 's'}"

    def _check_who_steps(self, pl_module: LightningModule) -> None:
        if not pl_module.automatic_optimization:
            raise MisconfigurationException(
                "global_batch_size needs the Trainer to accumulate gradients, but this model steps its optimizers"
                " itself (manual optimization). Leave global_batch_size out, and accumulate in training_step."
            )
        schedulers = namespaces.classes("callbacks", "GradientAccumulationScheduler")
        if any(isinstance(callback, schedulers) for callback in self._trainer.callbacks):
            raise MisconfigurationException(
                "global_batch_size sets accumulate_grad_batches, and so does GradientAccumulationScheduler. Leave one"
                " of the two out."
            )

    def _check_division(self) -> None:
        unit = self._processes * self._multiple_of
        if self.size % unit == 0:
            return
        below = self.size // unit * unit
        nearest = [str(size) for size in (below, below + unit) if size]
        multiples = "" if self._multiple_of == 1 else f" in multiples of {self._multiple_of}"
        raise MisconfigurationException(
            f"global_batch_size={self.size} cannot be divided evenly over {self._devices}{multiples}. The"
            f" nearest that can: {' and '.join(nearest)}."
        )
