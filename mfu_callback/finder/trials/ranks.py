"""Several processes that search together: each tries the same sizes and reaches the same result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from mfu_callback.finder.limits.out_of_memory import LimitExceededError
from mfu_callback.lightning import namespaces
from mfu_callback.lightning.namespaces import MisconfigurationException
from mfu_callback.tools.errors import named

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

_FAILED = "mfu_callback/finder/failed"  # a key of the process group's store
_LOOK_EVERY_SEC = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The outcome of a trial on all processes together.

    Attributes:
        fits: Whether it fitted on every process.
        used: The largest share of its limit that any process used; None if one of them does not know its share.
        seconds: Seconds that it took on the slowest process.
    """

    fits: bool
    used: float | None
    seconds: float


class FailedTogetherError(MisconfigurationException):
    """A trial failed in one process, and therefore in all that wait for it."""


class Ranks:
    """The processes of a run.

    Args:
        trainer: The Trainer.
        pl_module: The model.

    Raises:
        MisconfigurationException: If a trial cannot run the steps of the strategy.
    """

    def __init__(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._strategy: Any = trainer.strategy
        self._pl_module = pl_module
        self.count = trainer.world_size
        self._is_alone = False
        if not _is_one_of(self._strategy, "SingleDeviceStrategy", "DDPStrategy", "ModelParallelStrategy"):
            raise MisconfigurationException(
                f"BatchSizeFinder works with one device, DDP and ModelParallelStrategy (FSDP2), but this run uses"
                f" {type(self._strategy).__name__}. Find the size with one of these, then set it as batch_size."
            )
        # Where a forward pass waits for the other processes, a process that runs out of memory leaves them waiting.
        self.step_together = _is_one_of(self._strategy, "ModelParallelStrategy") or _has_collectives(pl_module)

    @property
    def held_bytes(self) -> int:
        """Bytes of the buckets that DDP copies gradients to. Trials do not use them."""
        model = self._strategy.model
        if not isinstance(model, DistributedDataParallel) or model.gradient_as_bucket_view:
            return 0
        if self._strategy.root_device.type != "cpu":
            return 0  # the device's allocator counts them in any case
        return sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)

    @contextmanager
    def apart(self) -> Iterator[None]:
        """A context in which steps run on this process's own model, without the other processes.

        In DDP's wrapper, a backward pass waits for the other processes, and one of them may have run out of memory.
        """
        if self.count == 1 or self.step_together:
            yield
            return
        wrapped, attributes = self._strategy.model, vars(self._pl_module)
        try:
            self._strategy.model = self._pl_module
            attributes["all_gather"] = self._gather_own  # restoring the snapshot of the module's attributes removes it
            yield
        finally:
            self._strategy.model = wrapped
            attributes.pop("all_gather", None)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """A context in which this process waits for no other: its verdicts are its own."""
        self._is_alone = True
        try:
            yield
        finally:
            self._is_alone = False

    def agree(self, *, fits: bool, used: float | None, seconds: float) -> Verdict:
        """The common verdict of all processes from what each of them saw. Every process must call this."""
        unfit, most_used, unknown, longest = self._worst(not fits, used or 0.0, used is None, seconds)
        return Verdict(fits=not unfit, used=None if unknown else most_used, seconds=longest)

    def most_of(self, value: float) -> float:
        """The largest value of any process."""
        return self._worst(value)[0]

    def of_each(self, value: int) -> tuple[int, ...]:
        """The value of each process, by rank."""
        mine = [float("-inf")] * self.count
        mine[distributed.get_rank() if self.count > 1 else 0] = value
        return tuple(int(one) for one in self._worst(*mine))

    @contextmanager
    def all_or_none(self, what: str) -> Iterator[None]:
        """A context that raises an error in every process if one process raises an error in it.

        Args:
            what: What happened in the process with the error, for the message in the others.

        Raises:
            RuntimeError: In the processes that have no error themselves.
        """
        try:
            yield
        except FailedTogetherError:
            raise
        except Exception:
            self._worst(True)
            raise
        if any(self._worst(False)):
            raise RuntimeError(f"BatchSizeFinder: another process {what}. Its own error says why.")

    def _worst(self, *values: float) -> list[float]:
        if self.count == 1 or self._is_alone:
            return list(values)
        row = torch.tensor(values, dtype=self._dtype(), device=self._strategy.root_device)
        distributed.all_reduce(row, op=distributed.ReduceOp.MAX)
        worst: list[float] = row.tolist()
        return worst

    def _dtype(self) -> torch.dtype:
        return torch.float32 if self._strategy.root_device.type == "mps" else torch.float64

    @contextmanager
    def failing_together(self, size: int) -> Iterator[None]:
        """A context for steps in which processes wait for each other: an error in one process ends all of them.

        Raises:
            FailedTogetherError: In every process within about ten seconds, with the first error's text.
        """
        if not self.step_together or self.count == 1:
            yield
            return
        over, store, rank = Event(), distributed.distributed_c10d._get_default_store(), distributed.get_rank()
        watch = Thread(target=_abort_on_failure, args=(store, over), daemon=True)
        watch.start()
        try:
            yield
        except LimitExceededError:  # detected after the steps, when no process waits for another
            raise
        except Exception as error:
            failure = _first_failure(store, f"process {rank}: {named(error)}")
            # Raised from None: with an out-of-memory error as its cause, it would look like a size that does not fit.
            raise FailedTogetherError(
                f"BatchSizeFinder's trial of batch size {size} failed. The run ends, since the processes wait for each"
                f" other in every step. The first error is of {failure}. Give a smaller max_size or a larger margin,"
                " or multiple_of= if the model takes only multiples of a number, or set the batch size yourself."
            ) from None
        finally:
            over.set()
            watch.join()

    def _gather_own(self, data: Any, group: Any = None, sync_grads: bool = False) -> Any:
        def repeated(tensor: Tensor) -> Tensor:
            tensor = tensor if sync_grads else tensor.detach()
            return torch.stack([tensor] * self.count)

        return apply_to_collection(data, Tensor, repeated)


def _is_one_of(strategy: Any, *names: str) -> bool:
    return any(isinstance(strategy, namespaces.classes("strategies", name)) for name in names)


def _has_collectives(module: nn.Module) -> bool:
    return any(isinstance(part, nn.SyncBatchNorm) for part in module.modules())


def _first_failure(store: Any, mine: str) -> str:
    """The first failure of any process; ``mine`` if the store has gone with the process that keeps it."""
    try:
        if not store.check([_FAILED]):
            store.set(_FAILED, mine)
        return str(store.get(_FAILED).decode())
    except RuntimeError:
        return mine


def _abort_on_failure(store: Any, over: Event) -> None:
    """Once a process has failed, abort the collectives that this one waits in; gloo's end with the failed process."""
    while not over.wait(_LOOK_EVERY_SEC):
        with suppress(RuntimeError, ValueError):
            if store.check([_FAILED]):
                if distributed.get_backend() == "nccl":
                    distributed.distributed_c10d._abort_process_group()
                return
