"""What is written about a fit, from its Trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mfu_callback.board.facts import RunFacts
from mfu_callback.board.run_board import Board
from mfu_callback.board.run_directory import directory_of
from mfu_callback.board.run_facts import facts_of
from mfu_callback.lightning import private_names
from mfu_callback.lightning.found_batch_size import found_batch_size
from mfu_callback.lightning.namespaces import distribution_of
from mfu_callback.meter.meter import RunMeter

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


def board_of(
    trainer: Trainer, pl_module: LightningModule, warn_once: Callable[[str, str], None], *, in_loggers: bool
) -> Board:
    """The board of a fit.

    Args:
        trainer: A Trainer that is about to fit.
        pl_module: The model.
        warn_once: Warns with a message, once per subject.
        in_loggers: Whether to write to loggers.
    """
    return Board(
        trainer.loggers if in_loggers and trainer.is_global_zero else (),
        lambda: _event_writers(trainer),
        lambda meter: _facts_of(trainer, pl_module, meter),
        lambda: filter(None, [run_directory(trainer)]),
        lambda: trainer.global_step,
        warn_once,
        lambda: found_batch_size(trainer),
    )


def run_directory(trainer: Trainer) -> Path | None:
    """The directory of a fit on this machine (`directory_of`); None in a ``fast_dev_run``, which writes nothing."""
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return None
    return directory_of(trainer.loggers, trainer.default_root_dir)


def _event_writers(trainer: Trainer) -> Iterator[tuple[Any, str]]:
    for logger in private_names.tensorboard_loggers(trainer):
        yield logger.experiment, private_names.logger_prefix(logger)


def _facts_of(trainer: Trainer, pl_module: LightningModule, meter: RunMeter) -> RunFacts:
    return facts_of(
        pl_module,
        meter,
        device=trainer.strategy.root_device,
        devices=trainer.world_size,
        precision=str(trainer.precision),
        strategy=type(trainer.strategy).__name__,
        accumulate_grad_batches=trainer.accumulate_grad_batches,
        loop=distribution_of(trainer),
    )
