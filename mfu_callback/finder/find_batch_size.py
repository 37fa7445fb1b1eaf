"""find_batch_size: the search as a function, for use before anything is built from the batch size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import TYPE_CHECKING, Any

from mfu_callback.finder.callback import BatchSizeFinder
from mfu_callback.finder.data.loaders import NAMES
from mfu_callback.finder.find import Search
from mfu_callback.finder.result import BatchSizeResult
from mfu_callback.finder.trials.isolation import dummy_loggers, random_state_kept
from mfu_callback.lightning import private_names
from mfu_callback.lightning.namespaces import MisconfigurationException

if TYPE_CHECKING:
    from lightning.pytorch import LightningDataModule, LightningModule, Trainer


def find_batch_size(
    trainer: Trainer,
    model: LightningModule,
    train_dataloaders: Any = None,
    val_dataloaders: Any = None,
    dataloaders: Any = None,
    datamodule: LightningDataModule | None = None,
    *,
    method: str = "fit",
    **options: Any,
) -> BatchSizeResult:
    """Find the batch size for a run without starting the run.

    The Trainer sets the model up as it would for the run, and the effects of every trial are undone. The size found is
    set where `BatchSizeFinder` can set it, and returned for anything else that is built from it. The Trainer's
    callbacks and loggers see nothing of the search. On a CPU, glibc's thresholds stay as they were in the trials (see
    the log), so that the run uses no more memory than the trials did.

    Args:
        trainer: The Trainer of the run.
        model: The model.
        train_dataloaders: As for ``fit``.
        val_dataloaders: As for ``fit``.
        dataloaders: As for ``validate``, ``test`` and ``predict``.
        datamodule: As for the Trainer's methods.
        method: "fit", "validate", "test" or "predict".
        options: The arguments of `BatchSizeFinder`.

    Returns:
        The size found and the trials.

    Raises:
        ValueError: If the method is unknown or has no use for the loaders, or as of `BatchSizeFinder`.
        MisconfigurationException: If not even the smallest size fits, the Trainer is a fast_dev_run, or its strategy
            spawns processes (ddp_spawn): with it a Trainer fits only once, and this process has other objects.

    Example:
        >>> size = find_batch_size(trainer, model, datamodule=data).batch_size  # doctest: +SKIP
    """
    if not isinstance(method, str) or method not in NAMES:
        raise ValueError(f"method={method!r} is not known. Use one of {tuple(NAMES)}.")
    of_fit = {"train_dataloaders": train_dataloaders, "val_dataloaders": val_dataloaders}
    of_others = {"dataloaders": dataloaders}
    given, unused = (of_fit, of_others) if method == "fit" else (of_others, of_fit)
    _check_unused(method, unused, given)
    finder = _FindAndStop(**options)
    _check(trainer)
    with _as_before(trainer, model), random_state_kept():
        trainer.callbacks = [finder]  # type: ignore[attr-defined]
        trainer.loggers = dummy_loggers(trainer)
        getattr(trainer, method)(model, **given, datamodule=datamodule)
    if finder.result is None:
        raise MisconfigurationException(f"The Trainer did not reach the start of {method}. Its log says why.")
    return finder.result


class _FindAndStop(BatchSizeFinder):
    """A finder that ends the run once the size is found."""

    def _search(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.result = Search(trainer, pl_module, stage, self._options, must_set=False).run()
        raise private_names.stop_here(trainer)


def _check_unused(method: str, unused: dict[str, Any], used: dict[str, Any]) -> None:
    for name, loaders in unused.items():
        if loaders is not None:
            raise ValueError(
                f"{name}= is not used with method={method!r}. Pass the loaders as {' and '.join(used)}, or another"
                " method."
            )


def _check(trainer: Any) -> None:
    if trainer.fast_dev_run:
        raise MisconfigurationException("find_batch_size() cannot search in a fast_dev_run. Leave one of the two out.")
    if private_names.spawns_processes(trainer):
        raise MisconfigurationException(
            "find_batch_size() cannot search in the spawned processes of this strategy: with it a Trainer fits only"
            " once, and what is set there is not set here. Use strategy='ddp', or BatchSizeFinder() as a callback: its"
            " result is there after the run."
        )


@contextmanager
def _as_before(trainer: Any, model: LightningModule) -> Iterator[None]:
    """Put back what a run changes on the Trainer and the model, and does not put back itself."""
    callbacks, loggers, datamodule = trainer.callbacks, trainer.loggers, trainer.datamodule
    state, loop, own_trainer = copy(trainer.state), trainer.fit_loop, model._trainer
    epochs, has_hparams = (loop.min_epochs, loop.max_epochs), hasattr(model, "_hparams")
    try:
        yield
    finally:
        trainer.callbacks, trainer.loggers, trainer.datamodule = callbacks, loggers, datamodule
        trainer.state, model._trainer = state, own_trainer
        loop.min_epochs, loop.max_epochs = epochs
        if not has_hparams:  # reading model.hparams, as the Trainer does, creates them
            vars(model).pop("_hparams", None)
