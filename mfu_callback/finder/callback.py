"""BatchSizeFinder: a callback that finds the largest or the fastest batch size before a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mfu_callback.finder.data.loaders import REMEDY, flattened
from mfu_callback.finder.data.stage_data import setting_of
from mfu_callback.finder.data.units import Unit, unit
from mfu_callback.finder.find import Search
from mfu_callback.finder.global_batch import GlobalBatch
from mfu_callback.finder.larger_batches import warn_of_larger
from mfu_callback.finder.limits.limit import MemoryLimit
from mfu_callback.finder.options import Objective, Options
from mfu_callback.finder.result import BatchSizeResult
from mfu_callback.finder.show import show_in_loggers, write_record
from mfu_callback.finder.state import result_of, state_of
from mfu_callback.finder.trials.isolation import random_state_kept
from mfu_callback.lightning import private_names
from mfu_callback.lightning.found_batch_size import FindsBatchSize
from mfu_callback.lightning.mailbox import Mailbox
from mfu_callback.lightning.namespaces import MisconfigurationException, rank_zero_info, rank_zero_warn
from mfu_callback.tools.brackets import Brackets

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


class BatchSizeFinder(FindsBatchSize):
    """Sets the batch size to the largest that fits in memory, before the first step of ``fit``.

    Each trial of a size runs two full optimizer steps (forward pass, backward pass, gradient clipping, optimizer) with
    a batch of the largest of a few samples of the data, then one validation step. The size that is set has run on every
    process. It is set on the ``batch_size`` of the model, its hparams and the datamodule, or on the loaders that were
    given to the Trainer. Optimizers, schedulers and loaders are then made anew. Model, optimizers, schedulers, random
    state and data are restored afterwards. Callbacks and loggers see nothing of the trials. In ``validate``, ``test``
    and ``predict``, a trial runs two steps of that method instead.

    The limit is real on a CPU too. On Linux, RLIMIT_DATA is lowered around each trial, so that an allocation of the
    trial fails before the system kills the process. From the search to the end of the run, glibc returns freed memory
    at once, so that training uses no more memory than the trials did. This slows down models of very small tensors.

    Args:
        max_size: The largest size to try; by default 1,048,576. Sizes above the number of samples that a process has in
            an epoch are not tried: no batch can hold more. Of several loaders the longest counts, and the shortest of
            those that drop a batch that they cannot fill.
        max_tokens: The largest number of tokens in a batch to try, for loaders that fill their batches by tokens; in
            place of ``max_size``. Of a given loader, the ``max_tokens``, ``max_tokens_in_batch``, ``tokens_per_batch``
            or the like of its batch sampler is set (with ``batch_size=None``, of its sampler); else that of the model,
            its hparams and the datamodule. Sizes, ``init_size`` and ``multiple_of`` are then samples of the longest
            length: the longest by the ``lengths`` of all samples, if the sampler or the data set has them, else the
            longest of 64 samples. The limit must count padding: samples times the longest of the batch.
        margin: The share of the memory to keep free. The trials may not use it.
        resolution: How exact the result is: the smallest size that failed is at most this share above it, or, where
            memory hardly grows with the size, 0.2 % of the memory. 0 is exact.
        objective: "memory" chooses the largest size that fits. "throughput" runs a sweep over the sizes that fit and
            chooses the smallest size within 2 % of the best tokens/sec (samples/sec if the batch has no tokens).
        budget: Bytes that model, gradients, optimizer state, activations and batch may use together, on top of what the
            process used before them. By default the free memory (on a CPU 80 % of it, shared by the processes of the
            machine).
        init_size: The first size to try. By default one that two small steps foresee to use a fifth of the memory, or
            2 where they cannot be watched.
        multiple_of: Only multiples of this number are tried: for a model that takes no other sizes, such as 2 for
            BatchNorm, which does not train on one sample.
        max_seconds: The search ends after this many seconds with the largest size that has run by then.
        worst_case: A batch that needs as much memory as any batch of its size; it is repeated or cut to the size of
            each trial. Or a function from a size (also with ``max_tokens`` the number of samples, each of the longest
            length) to such a batch. By default batches are made of the largest of 64 samples.
        batch_arg_name: The name of the attribute to set. By default ``batch_size``, or ``train_batch_size`` for fit,
            ``val_batch_size`` for validate, and so on. With ``max_tokens``, also that of the sampler; it may have dots,
            as in ``"constraint.max_tokens"``.
        global_batch_size: The samples of an optimizer step, of all devices and micro-batches together. Only sizes that
            divide it evenly are then tried in ``fit``, and the Trainer's ``accumulate_grad_batches`` is set to as many
            micro-batches as make it up. With ``objective="throughput"`` the fastest such division is chosen.

    Raises:
        ValueError: If an argument is of another type or out of its range, or two contradict each other.
        MisconfigurationException: When the search runs: if there is nothing to set, if there is no DataLoader to draw
            samples from, if the strategy is not one device, DDP or FSDP2, if not even the smallest size fits, or if the
            steps fail at a size for another reason than memory: the model's own error is its cause.

    Example:
        >>> trainer = Trainer(callbacks=[BatchSizeFinder()])  # doctest: +SKIP
    """

    def __init__(
        self,
        *,
        max_size: int | None = None,
        max_tokens: int | None = None,
        margin: float = 0.05,
        resolution: float = 0.01,
        objective: Objective = "memory",
        budget: int | None = None,
        init_size: int | None = None,
        multiple_of: int = 1,
        max_seconds: float | None = None,
        worst_case: Any = None,
        batch_arg_name: str | None = None,
        global_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        self._result: BatchSizeResult | None = None
        self._mailbox = Mailbox()
        self._options = Options(
            max_size=max_size,
            max_tokens=max_tokens,
            margin=margin,
            resolution=resolution,
            objective=objective,
            budget=budget,
            init_size=init_size,
            multiple_of=multiple_of,
            max_seconds=max_seconds,
            worst_case=worst_case,
            batch_arg_name=batch_arg_name,
            global_batch_size=global_batch_size,
        )
        self._brackets = Brackets()
        self._limit: MemoryLimit | None = None
        self._is_watching = False  # batches of training, for one that is larger than what was tried

    def __getstate__(self) -> dict[str, Any]:
        """State for copies: their mailbox is empty, so they get the result itself."""
        return {**vars(self), "_result": self.result}

    @property
    def result(self) -> BatchSizeResult | None:
        """The result of the latest search; None if there was none, or if it failed.

        Where a strategy spawns processes (ddp_spawn, ddp_fork, ddp_notebook), it is that of process 0 of this machine.
        """
        state = self._mailbox.take()
        if state is not None:
            self._result = result_of(state) if state else None
        return self._result

    @result.setter
    def result(self, result: BatchSizeResult | None) -> None:
        self._mailbox.take()  # an older one
        self._result = result

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """For an evaluation: search when the model is on its device and the loaders are not yet made."""
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
        """Search, set the size found, and make anew what was built with another size."""
        if reason := _reason_to_skip(trainer):
            rank_zero_info(f"BatchSizeFinder: skipped because {reason}.")
            if self.result is None:
                return
            self._set_again(trainer, pl_module, self.result)
            self._hand_over(trainer)
        else:
            self._search(trainer, pl_module, "fit")
        if self.result is not None:
            write_record(trainer, self.result)
        with random_state_kept():  # creating a loader's iterator draws a seed, as the first creation did
            private_names.rebuild_loaders_and_optimizers(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that the training loaders use the size found."""
        if self.result is None:
            return
        counted_in, loaders = self._unit(self.result), flattened(trainer.train_dataloader)
        # Of a batch with parts from several loaders, the samples are not known.
        self._is_watching = self.result.length is not None and len(loaders) == 1
        for used in map(counted_in.of, loaders):
            if used not in (None, self.result.set_to):
                raise MisconfigurationException(
                    f"BatchSizeFinder set a {counted_in.name} of {self.result.set_to}, but the run's loader has a"
                    f" {counted_in.name} of {used}. Make the DataLoader in train_dataloader() with that attribute,"
                    f" {REMEDY}."
                )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Warn, once, of a batch that has longer samples or more tokens than were tried."""
        if self._is_watching and self._result is not None:
            self._is_watching = not warn_of_larger(batch, self._result)

    def state_dict(self) -> dict[str, Any]:
        """The result, so that a run resumed from a checkpoint keeps its batch size."""
        return {} if self.result is None else state_of(self.result)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the result of the run that wrote the checkpoint, in this or an earlier version of the package.

        Raises:
            MisconfigurationException: If a later version wrote it, or it is no state of a BatchSizeFinder.
        """
        if state_dict:
            self.result = result_of(state_dict)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove the brackets and undo the allocator's settings."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove the brackets and undo the allocator's settings."""
        self._close()

    def _search(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.result = None
        self._hand_over(trainer)
        search = Search(trainer, pl_module, stage, self._options)
        self._limit = search.limit
        self.result = result = search.run()
        self._hand_over(trainer)
        show_in_loggers(trainer, result)

    def _set_again(self, trainer: Trainer, pl_module: LightningModule, result: BatchSizeResult) -> None:
        """Set what an earlier run has found; other devices share the global batch of that run in another way."""
        setting_of(trainer, pl_module, "fit", self._unit(result)).put(result.set_to)
        if result.global_batch_size is not None:
            size = result.batch_size
            GlobalBatch(trainer, pl_module, result.global_batch_size, multiple_of=size).put(size)

    def _hand_over(self, trainer: Any) -> None:
        """Have the process that spawned this one know the result, or that there is none yet."""
        if trainer.local_rank != 0 or not private_names.spawns_processes(trainer):
            return
        try:
            self._mailbox.put(self.state_dict())
        except OSError as error:
            rank_zero_warn(
                f"BatchSizeFinder cannot write to the temporary directory ({error}), so its result will be missing in"
                " the process that started this one. The batch size is used all the same. Set the environment variable"
                " TMPDIR to a directory that can be written to."
            )

    def _unit(self, result: BatchSizeResult) -> Unit:
        return unit(max_tokens=result.max_tokens, attribute=self._options.batch_arg_name)

    def _close(self) -> None:
        self._brackets.remove()
        if self._limit is not None:
            self._limit.close()
            self._limit = None


def _reason_to_skip(trainer: Any) -> str | None:
    if trainer.fast_dev_run:
        return "fast_dev_run trains too few batches for the batch size to matter"
    if trainer.ckpt_path is not None:
        return "a run resumed from a checkpoint keeps the batch_size found before, if any"
    return None
