"""BatchSizeFinder: finds the largest, or fastest, batch before a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from mfu_callback.finder.data.loaders import REMEDY, batch_size_of, flattened
from mfu_callback.finder.data.stage_data import setting_of
from mfu_callback.finder.find import Search
from mfu_callback.finder.limits.limit import MemoryLimit
from mfu_callback.finder.options import Options
from mfu_callback.finder.result import BatchSizeResult
from mfu_callback.finder.show import show_in_loggers
from mfu_callback.finder.trials.isolation import random_state_kept
from mfu_callback.lightning import private_names
from mfu_callback.lightning.found_batch_size import FindsBatchSize
from mfu_callback.tools.brackets import Brackets


class BatchSizeFinder(FindsBatchSize):
    """Sets the batch size to the largest that fits in memory, before the first step of ``fit``.

    Every size is tried by two full training steps: forward, backward, gradient clipping and the optimizer, with the
    largest of a sample of the data, and one step of the validation. The size that is set is one that ran, on every
    process. It is set on the ``batch_size`` of the model, its hparams and the datamodule, or on the loaders that were
    given to the Trainer; optimizers, schedulers and loaders are then made anew. Model, optimizers, schedulers, random
    state and data are put back afterwards; callbacks and loggers see nothing of the trials. In ``validate``, ``test``
    and ``predict`` it does the same with two steps of these.

    The limit is real on a CPU too: on Linux, RLIMIT_DATA is lowered around each trial, so that the run's own
    allocations fail instead of the system ending it. From the search to the end of the run, glibc returns freed memory
    at once, so that training takes what the trials took; this slows models of very small tensors.

    Args:
        max_size: No size above this one is tried; by default 1,048,576, or what the data can fill where the loader
            drops batches that it cannot.
        margin: The share of the memory to keep free. Trials run without it.
        resolution: How exact the result is: the smallest size that failed is at most this share above it. 0 is exact.
        objective: "memory" takes the largest size that fits; "throughput" the smallest within 2 % of the best
            tokens/sec (samples/sec where the batch has no tokens), from a sweep over the sizes that fit.
        budget: Bytes that model, gradients, optimizer state, activations and batch may take above the process's use
            before them; by default what is free (on a CPU 80 % of it, shared by the processes of the machine).
        init_size: The first size that is tried.
        multiple_of: Only multiples of this are tried.
        max_seconds: After this long, the largest size that has run by then is taken.
        worst_case: A batch that takes as much memory as any of its size, repeated or cut to the size of each trial; or
            a function from a size to such a batch. By default batches are made of the largest of 64 samples.
        batch_arg_name: The name of the attribute to set; by default ``batch_size``, or ``train_batch_size`` for fit,
            ``val_batch_size`` for validate, and so on.

    Raises:
        ValueError: If an argument is out of its range.
        MisconfigurationException: When it runs, if there is nothing to set, no DataLoader to take samples from, a
            strategy other than one device, DDP and FSDP2, or if not even the smallest size fits.

    Example:
        >>> trainer = Trainer(callbacks=[BatchSizeFinder()])  # doctest: +SKIP
    """

    def __init__(
        self,
        *,
        max_size: int | None = None,
        margin: float = 0.05,
        resolution: float = 0.01,
        objective: str = "memory",
        budget: int | None = None,
        init_size: int = 2,
        multiple_of: int = 1,
        max_seconds: float | None = None,
        worst_case: Any = None,
        batch_arg_name: str | None = None,
    ) -> None:
        super().__init__()
        self.result: BatchSizeResult | None = None
        self._options = Options(
            max_size=max_size,
            margin=margin,
            resolution=resolution,
            objective=objective,
            budget=budget,
            init_size=init_size,
            multiple_of=multiple_of,
            max_seconds=max_seconds,
            worst_case=worst_case,
            batch_arg_name=batch_arg_name,
        )
        self._brackets = Brackets()
        self._limit: MemoryLimit | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """In an evaluation, search once the model is on its device, and before the loaders are made."""
        if stage == "fit" or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return

        def searched(setup_data: Callable[[], None]) -> Callable[[], None]:
            def search_and_set_up() -> None:
                self._brackets.remove()
                self._search(trainer, pl_module, stage)
                setup_data()

            return search_and_set_up

        self._brackets.put(private_names.evaluation_loop(trainer, stage), "setup_data", searched)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Search, set what was found, and make anew what was built from another size."""
        if reason := _reason_to_skip(trainer):
            rank_zero_info(f"BatchSizeFinder: skipped, {reason}.")
            if self.result is None:
                return
            setting = setting_of(trainer, pl_module, "fit", self._options.batch_arg_name)
            setting.put(self.result.batch_size)
        else:
            self._search(trainer, pl_module, "fit")
        with random_state_kept():  # making a loader's iterator draws a seed, as it did the first time
            private_names.set_up_anew(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make sure that training uses what was found."""
        if self.result is None:
            return
        for used in map(batch_size_of, flattened(trainer.train_dataloader)):
            if used not in (None, self.result.batch_size):
                raise MisconfigurationException(
                    f"BatchSizeFinder set a batch size of {self.result.batch_size}, but the loader of the run gives"
                    f" batches of {used}. Make the DataLoader in train_dataloader() from that attribute, {REMEDY}."
                )

    def state_dict(self) -> dict[str, Any]:
        """The result, so that a run that goes on from a checkpoint keeps its size."""
        return {} if self.result is None else self.result.as_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the result of the run that wrote the checkpoint."""
        if state_dict:
            self.result = BatchSizeResult.from_state(state_dict)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let the allocator work as before."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let the allocator work as before."""
        self._close()

    def _search(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        search = Search(trainer, pl_module, stage, self._options)
        self._limit = search.limit
        self.result = None
        self.result = search.run()
        show_in_loggers(trainer, self.result)

    def _close(self) -> None:
        self._brackets.remove()
        if self._limit is not None:
            self._limit.close()
            self._limit = None


def _reason_to_skip(trainer: Any) -> str | None:
    if trainer.fast_dev_run:
        return "fast_dev_run trains too little for it to matter"
    if trainer.ckpt_path is not None:
        return "a run that goes on from a checkpoint keeps the batch_size that was found before, if any"
    return None
