"""BatchSizeFinder: finds the largest batch before fit."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.parsing import lightning_hasattr, lightning_setattr
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from mfu_callback import _lightning
from mfu_callback.finder.limit import MemoryLimit, limit_for
from mfu_callback.finder.samples import dataset_length, training_loader
from mfu_callback.finder.search import find_largest
from mfu_callback.finder.trial import Trial, Trials


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSizeResult:
    """What the search came to.

    Attributes:
        batch_size: The largest size that ran, in samples.
        trials: Every size that was tried, in order.
    """

    batch_size: int
    trials: tuple[Trial, ...]


class BatchSizeFinder(Callback):
    """Sets ``batch_size`` to the largest that fits in memory, before the first training step.

    Every size is tried by two full training steps: forward, backward, gradient clipping and the optimizer. The size
    that is set is one that ran. Model, optimizers, schedulers, random state and data are put back afterwards;
    callbacks and loggers see nothing of the trials.

    The limit is real on a CPU too: on Linux, RLIMIT_DATA is lowered around each trial, so that the run's own
    allocations fail instead of the system ending it. From the search to the end of fit, glibc returns freed memory at
    once, so that training takes what the trials took; this slows models of very small tensors.

    Args:
        max_size: No size above this one is tried; nor is one above the number of samples in the data set.
        margin: The share of the memory to keep free. Trials run without it.
        resolution: How exact the result is: the smallest size that failed is at most this share above it. 0 is exact.
        budget: Bytes that model, gradients, optimizer state, activations and batch may take above the process's use
            before them; by default what is free (on a CPU 80 % of it).
        init_size: The first size that is tried.

    Raises:
        ValueError: If an argument is out of its range.
        MisconfigurationException: At fit, if there is no ``batch_size`` to set, no loader that is made from it, more
            than one process, or if not even one sample fits.

    Example:
        >>> trainer = Trainer(callbacks=[BatchSizeFinder()])  # doctest: +SKIP
    """

    def __init__(
        self,
        *,
        max_size: int | None = None,
        margin: float = 0.05,
        resolution: float = 0.01,
        budget: int | None = None,
        init_size: int = 2,
    ) -> None:
        super().__init__()
        _check_arguments(max_size, margin, resolution, budget, init_size)
        self.result: BatchSizeResult | None = None
        self._max_size = max_size
        self._margin = margin
        self._resolution = resolution
        self._budget = budget
        self._init_size = init_size
        self._limit: MemoryLimit | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Search, and set what was found."""
        if reason := _reason_to_skip(trainer):
            rank_zero_info(f"BatchSizeFinder: skipped, {reason}.")
        else:
            _check_run(trainer, pl_module)
            self.result = self._search(trainer, pl_module)
        if self.result is not None:
            lightning_setattr(pl_module, "batch_size", self.result.batch_size)
            _lightning.rebuild_what_knows_the_batch_size(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make sure that training uses what was found."""
        used = getattr(trainer.train_dataloader, "batch_size", None)
        if self.result is not None and used not in (None, self.result.batch_size):
            raise MisconfigurationException(
                f"BatchSizeFinder set batch_size={self.result.batch_size}, but train_dataloader() gave batches of"
                f" {used}. Make the DataLoader in train_dataloader(), with batch_size=self.batch_size."
            )

    def state_dict(self) -> dict[str, Any]:
        """The result, so that a run that goes on from a checkpoint keeps its size."""
        return {} if self.result is None else asdict(self.result)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the result of the run that wrote the checkpoint."""
        trials = tuple(Trial(**trial) for trial in state_dict["trials"])
        self.result = BatchSizeResult(batch_size=state_dict["batch_size"], trials=trials)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let the allocator work as before."""
        self._close_limit()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let the allocator work as before."""
        self._close_limit()

    def _search(self, trainer: Trainer, pl_module: LightningModule) -> BatchSizeResult:
        loader = training_loader(trainer)
        limit = limit_for(trainer.strategy.root_device, budget=self._budget, margin=self._margin)
        self._limit = limit
        trials = Trials(trainer, pl_module, loader, limit)
        max_size = _smaller(self._max_size, dataset_length(loader) or None)
        with trials.prepared(warmup_size=min(2, max_size or 2)):
            rank_zero_info(
                f"BatchSizeFinder: searching within {limit.describe()}, a margin of {self._margin:.0%} taken"
                f" off{'' if max_size is None else f', no more than {max_size} samples'}."
            )
            size = find_largest(trials.fits, init_size=self._init_size, max_size=max_size, resolution=self._resolution)
        if size is None:
            raise MisconfigurationException(
                f"Not even a batch of 1 fits into {limit.describe()}. Give BatchSizeFinder a larger budget or a smaller"
                " margin, or train a smaller model."
            )
        rank_zero_info(f"BatchSizeFinder: batch_size={size} is the largest that fits, after {len(trials.done)} trials.")
        return BatchSizeResult(batch_size=size, trials=tuple(trials.done))

    def _close_limit(self) -> None:
        if self._limit is not None:
            self._limit.close()
            self._limit = None


def _reason_to_skip(trainer: Any) -> str | None:
    if trainer.fast_dev_run:
        return "fast_dev_run trains too little for it to matter"
    if trainer.ckpt_path is not None:
        return "a run that goes on from a checkpoint keeps the batch_size that was found before, if any"
    return None


def _check_run(trainer: Trainer, pl_module: LightningModule) -> None:
    if trainer.world_size > 1:
        raise MisconfigurationException(
            f"BatchSizeFinder works with one process, and this run has {trainer.world_size}. Find the size with"
            " devices=1, then give it as batch_size."
        )
    if not lightning_hasattr(pl_module, "batch_size"):
        raise MisconfigurationException(
            "BatchSizeFinder sets `batch_size`, and neither the model, its hparams nor the datamodule has one. Give"
            " one of them a `batch_size` attribute that its train_dataloader() uses."
        )


def _smaller(one: int | None, other: int | None) -> int | None:
    return min((size for size in (one, other) if size is not None), default=None)


def _check_arguments(
    max_size: int | None, margin: float, resolution: float, budget: int | None, init_size: int
) -> None:
    for name, value in (("max_size", max_size), ("budget", budget), ("init_size", init_size)):
        if value is not None and value < 1:
            raise ValueError(f"{name}={value!r} must be at least 1.")
    for name, share in (("margin", margin), ("resolution", resolution)):
        if not 0 <= share < 1:
            raise ValueError(f"{name}={share!r} must be a share of at least 0 and below 1; 0.05 is 5 %.")
