"""The private Lightning names that cannot be avoided, each with what it is needed for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins import BitsandbytesPrecision
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.strategies.launchers.multiprocessing import _MultiProcessingLauncher
from lightning.pytorch.trainer import call
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.exceptions import _TunerExitException
from lightning.pytorch.utilities.parsing import _lightning_get_all_attr_holders
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature

from mfu_callback.flops.rules.shards import MESH_DIMENSION

# The method that Lightning's training loop calls right before it fetches a batch; no hook marks that moment.
FETCH = "_on_before_fetch"
# The method of the logger connector that sends a batch's metrics to the loggers, once its hooks have run.
SEND_METRICS = "log_metrics"

_MATMUL_DTYPES = {
    "64-true": torch.float64,
    "32-true": torch.float32,
    "16-true": torch.float16,
    "16-mixed": torch.float16,
    "bf16-true": torch.bfloat16,
    "bf16-mixed": torch.bfloat16,
    # Its layers multiply in fp8, forward and backward; the names tell the dtype of the weights.
    "transformer-engine": torch.float8_e4m3fn,
    "transformer-engine-float16": torch.float8_e4m3fn,
}


def matmul_dtype(trainer: Trainer) -> torch.dtype:
    """The dtype of the matmuls' inputs under the Trainer's precision."""
    plugin = trainer.precision_plugin
    if isinstance(plugin, BitsandbytesPrecision):  # its weights are unpacked to this dtype; its name says nothing
        return plugin.dtype
    return _MATMUL_DTYPES.get(str(plugin.precision), torch.float32)


def tensor_parallel_size(trainer: Trainer) -> int:
    """How many devices share the work on one batch."""
    strategy = trainer.strategy
    if not isinstance(strategy, ModelParallelStrategy):
        return 1
    mesh = strategy.device_mesh
    return mesh[MESH_DIMENSION].size() if MESH_DIMENSION in (mesh.mesh_dim_names or ()) else 1


def is_logging_step(trainer: Trainer) -> bool:
    """Whether the Trainer sends metrics to its loggers at the end of this batch, in which an optimizer stepped."""
    every = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return every > 0 and ((trainer.fit_loop.epoch_loop._batches_that_stepped + 1) % every == 0 or trainer.should_stop)


def step_counter(trainer: Trainer) -> Callable[[], int]:
    """What reads ``trainer.global_step`` in a twentieth of the time."""
    loop = optimization_loop(trainer)
    if trainer.lightning_module.automatic_optimization:
        return lambda: loop.optim_progress.optimizer.step.total.completed
    return lambda: loop.optim_step_progress.total.completed


def logger_connector(trainer: Trainer) -> Any:
    """What keeps metrics and sends them to the loggers."""
    return trainer._logger_connector


def show_metrics(trainer: Trainer, metrics: Mapping[str, Any], *, in_progress_bar: Mapping[str, float]) -> None:
    """Put metrics into ``callback_metrics`` and ``logged_metrics``, and some into the progress bar."""
    connector = trainer._logger_connector
    connector._callback_metrics.update(metrics)
    connector._logged_metrics.update(metrics)
    connector._progress_bar_metrics.update(in_progress_bar)


def log_directory(trainer: Trainer) -> Path | None:
    """The directory of the first logger that has one on this machine."""
    for logger in trainer.loggers:
        directory = getattr(logger, "log_dir", None) or logger.save_dir
        if isinstance(directory, str | Path):  # the logger of a fast_dev_run answers everything with a function
            return Path(directory)
    return None


def logger_prefix(logger: TensorBoardLogger) -> str:
    """What a logger puts before every tag."""
    return f"{logger._prefix}{logger.LOGGER_JOIN_CHAR}" if logger._prefix else ""


def training_epoch_loop(trainer: Trainer) -> Any:
    """The loop that fetches the training batches."""
    return trainer.fit_loop.epoch_loop


def optimization_loop(trainer: Trainer) -> Any:
    """The loop whose ``run`` is one batch's forward, backward and, where it is due, the optimizer's step."""
    loop = trainer.fit_loop.epoch_loop
    return loop.automatic_optimization if trainer.lightning_module.automatic_optimization else loop.manual_optimization


def validation_loop(trainer: Trainer) -> Any:
    """The loop whose ``run`` is all of a validation inside fit, the start of its loader's workers included."""
    return trainer.fit_loop.epoch_loop.val_loop


def move_batch(trainer: Trainer, batch: Any) -> Any:
    """Do to a batch what the training loop does between the loader and the training step."""
    batch = trainer.precision_plugin.convert_input(batch)
    batch = trainer.lightning_module._on_before_batch_transfer(batch, dataloader_idx=0)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=0)


def training_step_arguments(pl_module: LightningModule, batch: Any, batch_idx: int) -> tuple[Any, ...]:
    """What the training loop calls ``training_step`` with; ``batch_idx`` is optional there."""
    if is_param_in_hook_signature(pl_module.training_step, "dataloader_iter", explicit=True):
        return (repeat((batch, batch_idx, 0)),)  # it fetches its batches itself
    takes_index = is_param_in_hook_signature(pl_module.training_step, "batch_idx", min_args=2)
    return (batch, batch_idx) if takes_index else (batch,)


@contextmanager
def training_loaders_kept(trainer: Trainer) -> Iterator[None]:
    """Put back what the training loop knows of its loaders."""
    loop = trainer.fit_loop
    kept = loop._combined_loader, loop.max_batches
    try:
        yield
    finally:
        loop._combined_loader, loop.max_batches = kept


def show_training_loaders(trainer: Trainer, loaders: Any, batches: float) -> None:
    """Let ``trainer.train_dataloader`` and ``trainer.num_training_batches`` tell what they would in a run."""
    loop = trainer.fit_loop
    loop._combined_loader = loaders if isinstance(loaders, CombinedLoader) else CombinedLoader(loaders)
    loop.max_batches = batches


def data_source(trainer: Trainer, stage: str) -> Any:
    """Where the Trainer gets the loaders of a stage from: the datamodule, the model, or what it was given."""
    return (trainer.fit_loop if stage == "fit" else evaluation_loop(trainer, stage))._data_source


def validation_source(trainer: Trainer) -> Any:
    """Where the loaders of the validation inside fit come from; None if there will be none."""
    return trainer.fit_loop.epoch_loop.val_loop._data_source if trainer.enable_validation else None


def evaluation_loop(trainer: Trainer, stage: str) -> Any:
    """The loop of ``validate``, ``test`` or ``predict``; its ``setup_data`` asks for the loaders."""
    loops = {"validate": trainer.validate_loop, "test": trainer.test_loop, "predict": trainer.predict_loop}
    return loops[stage]


def attribute_holders(pl_module: LightningModule, name: str) -> list[Any]:
    """The objects and dicts that ``lightning_setattr`` sets an attribute on, to put each one's own value back."""
    return _lightning_get_all_attr_holders(pl_module, name)


def call_module_hook(trainer: Trainer, name: str, *arguments: Any) -> None:
    """Call a hook of the LightningModule as the Trainer's loops do."""
    call._call_lightning_module_hook(trainer, name, *arguments)


def set_up_anew(trainer: Trainer) -> None:
    """Let the training loader, optimizers and schedulers be made from the batch size of now.

    The loader is there before fit only if ``configure_optimizers`` asked for ``estimated_stepping_batches``.
    """
    trainer.fit_loop._combined_loader = None
    trainer.strategy.setup_optimizers(trainer)


def spawns_processes(trainer: Trainer) -> bool:
    """Whether the run is handed to new processes, whose objects this one never sees."""
    return isinstance(trainer.strategy.launcher, _MultiProcessingLauncher)


def stop_here() -> Exception:
    """What ends a run from inside without an error, as Lightning's own tuner does."""
    return _TunerExitException()
