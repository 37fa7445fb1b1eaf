"""A real training run that writes a board to TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import TensorBoardLogger

from gpt import GPTModule
from mfu_callback import MFUCallback
from tests.helpers.runs import PEAK, TINY, make_trainer, tiny_data


def trained(directory: Path, *callbacks: Any, module: LightningModule | None = None, **options: Any) -> Path:
    """Train with a TensorBoard logger and return the run's directory."""
    logger = options.pop("logger", None) or TensorBoardLogger(directory, name="", version="run")
    callback = options.pop("callback", None) or MFUCallback(peak=PEAK, warmup_steps=1)
    trainer = make_trainer(callback, *callbacks, logger=logger, **options)
    trainer.fit(module or GPTModule(TINY), datamodule=tiny_data())
    return Path(directory) / "run"


class WithoutHParams(GPTModule):
    """A module without hyperparameters to log."""

    def __init__(self) -> None:
        super().__init__(TINY)
        self._log_hyperparams = False
