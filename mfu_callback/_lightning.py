"""The private Lightning names that cannot be avoided, each with what it is needed for."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Trainer

# The method that Lightning's training loop calls right before it fetches a batch; no hook marks that moment.
FETCH = "_on_before_fetch"

_MATMUL_DTYPES = {
    "64-true": torch.float64,
    "32-true": torch.float32,
    "16-true": torch.float16,
    "16-mixed": torch.float16,
    "bf16-true": torch.bfloat16,
    "bf16-mixed": torch.bfloat16,
    "transformer-engine": torch.bfloat16,
    "transformer-engine-float16": torch.float16,
}


def matmul_dtype(trainer: Trainer) -> torch.dtype:
    """The dtype of the matmuls' inputs under the Trainer's precision."""
    return _MATMUL_DTYPES.get(str(trainer.precision), torch.float32)


def is_logging_step(trainer: Trainer) -> bool:
    """Whether the Trainer sends metrics to its loggers at the end of this batch."""
    return bool(trainer._logger_connector.should_update_logs)


def training_epoch_loop(trainer: Trainer) -> Any:
    """The loop that fetches the training batches."""
    return trainer.fit_loop.epoch_loop


def validation_loop(trainer: Trainer) -> Any:
    """The loop whose ``run`` is all of a validation inside fit, the start of its loader's workers included."""
    return trainer.fit_loop.epoch_loop.val_loop
