"""All private Lightning names that the package uses, each behind a function that says what it is needed for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import repeat
from typing import TYPE_CHECKING, Any

from mfu_callback.flops.rules.shards import MESH_DIMENSION
from mfu_callback.lightning import namespaces

if TYPE_CHECKING:
    import torch
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.loggers import TensorBoardLogger
    from torch.utils.data import DataLoader

# The method that Lightning's training loop calls right before it fetches a batch. There is no hook for that.
FETCH = "_on_before_fetch"
# The method of a data fetcher that calls the above.
START_OF_FETCH = "_start_profiler"
# The method of the logger connector that sends a batch's metrics to the loggers, after the hooks of the batch.
SEND_METRICS = "log_metrics"


def tensor_parallel_size(trainer: Trainer) -> int:
    """Number of devices of a tensor-parallel group, by the mesh of the strategy."""
    strategy = trainer.strategy
    if not isinstance(strategy, namespaces.classes("strategies", "ModelParallelStrategy")):
        return 1
    mesh = strategy.device_mesh
    return mesh[MESH_DIMENSION].size() if MESH_DIMENSION in (mesh.mesh_dim_names or ()) else 1


def logging_step(trainer: Trainer) -> Callable[[], bool]:
    """Returns a function: whether the Trainer logs at the end of this batch, in which an optimizer stepped."""
    loop = trainer.fit_loop.epoch_loop

    def is_logging_step() -> bool:
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        return every > 0 and ((loop._batches_that_stepped + 1) % every == 0 or trainer.should_stop)

    return is_logging_step


def step_counter(trainer: Trainer) -> Any:
    """The object whose attribute ``completed`` is ``trainer.global_step``, read in a twentieth of the time."""
    loop = optimization_loop(trainer)
    automatic = trainer.lightning_module.automatic_optimization
    return loop.optim_progress.optimizer.step.total if automatic else loop.optim_step_progress.total


def logger_connector(trainer: Trainer) -> Any:
    """The object that keeps metrics and sends them to the loggers."""
    return trainer._logger_connector


def show_metrics(trainer: Trainer, metrics: Mapping[str, Any], *, in_progress_bar: Mapping[str, float]) -> None:
    """Put metrics into ``callback_metrics`` and ``logged_metrics``, and some into the progress bar."""
    connector = trainer._logger_connector
    connector._callback_metrics.update(metrics)
    connector._logged_metrics.update(metrics)
    connector._progress_bar_metrics.update(in_progress_bar)


def tensorboard_loggers(trainer: Trainer) -> list[TensorBoardLogger]:
    """The loggers of a Trainer that write TensorBoard's event files."""
    kinds = namespaces.classes("loggers", "TensorBoardLogger")
    return [logger for logger in trainer.loggers if isinstance(logger, kinds)]


def logged_results(trainer: Trainer) -> dict[str, Any]:
    """The modules that keep what the running loop has logged by ``self.log``."""
    return {} if trainer._results is None else trainer._results


def step_of_logs(trainer: Trainer) -> int:
    """The step at which the Trainer logs its own metrics now."""
    return int(trainer.fit_loop.epoch_loop._batches_that_stepped)


def log_at(trainer: Trainer, metrics: dict[str, torch.Tensor], step: int) -> None:
    """Send metrics to all loggers at a step."""
    trainer._logger_connector.log_metrics(metrics, step=step)


def logger_prefix(logger: TensorBoardLogger) -> str:
    """The prefix of every tag of a logger; empty if it has none."""
    return f"{logger._prefix}{logger.LOGGER_JOIN_CHAR}" if logger._prefix else ""


def training_epoch_loop(trainer: Trainer) -> Any:
    """The loop that fetches the training batches."""
    return trainer.fit_loop.epoch_loop


def optimization_loop(trainer: Trainer) -> Any:
    """The loop whose ``run`` is the forward and backward of one batch and, if one is due, the optimizer step."""
    loop = trainer.fit_loop.epoch_loop
    return loop.automatic_optimization if trainer.lightning_module.automatic_optimization else loop.manual_optimization


def validation_loop(trainer: Trainer) -> Any:
    """The loop whose ``run`` is a whole validation inside fit, including the start of the loader's workers."""
    return trainer.fit_loop.epoch_loop.val_loop


def move_batch(trainer: Trainer, batch: Any) -> Any:
    """Convert a batch and move it to the device, as the training loop does before the training step."""
    batch = trainer.precision_plugin.convert_input(batch)
    batch = trainer.lightning_module._on_before_batch_transfer(batch, dataloader_idx=0)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=0)


def training_step_arguments(pl_module: LightningModule, batch: Any, batch_idx: int) -> tuple[Any, ...]:
    """The arguments with which the training loop calls ``training_step``, whose ``batch_idx`` is optional."""
    is_param_in_hook_signature = namespaces.of(pl_module, "utilities.signature_utils", "is_param_in_hook_signature")
    if is_param_in_hook_signature(pl_module.training_step, "dataloader_iter", explicit=True):
        return (repeat((batch, batch_idx, 0)),)  # this flavor fetches its batches itself
    takes_index = is_param_in_hook_signature(pl_module.training_step, "batch_idx", min_args=2)
    return (batch, batch_idx) if takes_index else (batch,)


@contextmanager
def training_loaders_kept(trainer: Trainer) -> Iterator[None]:
    """Restore the training loop's loaders and its number of batches at the end of the block."""
    loop = trainer.fit_loop
    kept = loop._combined_loader, loop.max_batches
    try:
        yield
    finally:
        loop._combined_loader, loop.max_batches = kept


def show_training_loaders(trainer: Trainer, loaders: Any, batches: float) -> None:
    """Make ``trainer.train_dataloader`` and ``trainer.num_training_batches`` return what they would in a run."""
    loop = trainer.fit_loop
    combined = namespaces.of(trainer, "utilities", "CombinedLoader")
    loop._combined_loader = loaders if isinstance(loaders, combined) else combined(loaders)
    loop.max_batches = batches


def data_source(trainer: Trainer, stage: str) -> Any:
    """The source of the loaders of a stage: the datamodule, the model, or the loaders that the Trainer was given."""
    return (trainer.fit_loop if stage == "fit" else evaluation_loop(trainer, stage))._data_source


def validation_source(trainer: Trainer) -> Any:
    """The source of the loaders of the validation inside fit; None if there will be no validation."""
    return trainer.fit_loop.epoch_loop.val_loop._data_source if trainer.enable_validation else None


def processes_that_share(trainer: Trainer, loader: DataLoader[Any]) -> int:
    """Among how many processes the Trainer will divide the samples of a loader, by a sampler that it puts in."""
    if not trainer._data_connector._requires_distributed_sampler(loader):
        return 1
    return int((trainer.distributed_sampler_kwargs or {}).get("num_replicas", 1))


def evaluation_loop(trainer: Trainer, stage: str) -> Any:
    """The loop of ``validate``, ``test`` or ``predict``; its ``setup_data`` requests the loaders."""
    loops = {"validate": trainer.validate_loop, "test": trainer.test_loop, "predict": trainer.predict_loop}
    return loops[stage]


def data_fetcher(trainer: Trainer, stage: str) -> Any:
    """The object that fetches the batches of a validation inside fit, or of ``validate``, ``test`` or ``predict``.

    It is a new one in each loop, and there from the loop's first hook on.
    """
    is_in_fit = trainer.state.fn == "fit"
    return (validation_loop(trainer) if is_in_fit else evaluation_loop(trainer, stage))._data_fetcher


def attribute_holders(pl_module: LightningModule, name: str) -> list[Any]:
    """The objects and dicts on which ``lightning_setattr`` sets an attribute; needed to restore each one's value."""
    all_holders = namespaces.of(pl_module, "utilities.parsing", "_lightning_get_all_attr_holders")
    holders: list[Any] = all_holders(pl_module, name)
    return holders


def call_module_hook(trainer: Trainer, name: str, *arguments: Any) -> None:
    """Call a hook of the LightningModule as the Trainer's loops do."""
    namespaces.of(trainer, "trainer.call", "_call_lightning_module_hook")(trainer, name, *arguments)


def rebuild_loaders_and_optimizers(trainer: Trainer) -> None:
    """Have the training loader, optimizers and schedulers created again with the current batch size.

    The loader exists before fit only if ``configure_optimizers`` read ``estimated_stepping_batches``.
    """
    trainer.fit_loop._combined_loader = None
    trainer.strategy.setup_optimizers(trainer)


def spawns_processes(trainer: Trainer) -> bool:
    """Whether the strategy runs training in new processes, whose objects this process cannot access."""
    kinds = namespaces.classes("strategies.launchers.multiprocessing", "_MultiProcessingLauncher")
    return isinstance(trainer.strategy.launcher, kinds)


def stop_here(trainer: Trainer) -> Exception:
    """The exception that ends a run from inside without an error, as Lightning's own tuner does."""
    exception: Exception = namespaces.of(trainer, "utilities.exceptions", "_TunerExitException")()
    return exception
