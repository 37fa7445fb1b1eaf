"""A job of two fits: `restart_run.py DIRECTORY HOW [CHECKPOINT]` trains the first, or resumes a checkpoint.

HOW is words joined by hyphens: a name; "killed" or "raising" in the step of index 10; "ddp" (two processes), "uneven"
(the second of them gets half the batch), "alone" (rank zero asks for the state in a step at which no other does).
Values are logged at every fourth step, and a checkpoint is written after every fifth.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from gpt import GPTModule
from mfu_callback import MFUCallback
from tests.helpers.runs import PEAK, TINY, make_trainer, tiny_data

LAST, EVERY, LOG_EVERY = 12, 5, 4
ENDS_IN = 10
PAUSE_SEC = 0.2


class Ends(GPTModule):
    """A GPT that comes to its end as HOW says."""

    words: tuple[str, ...] = ()

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Returns half the batch on the second rank with "uneven", else the whole batch."""
        is_half = "uneven" in self.words and self.trainer.global_rank == 1
        return tuple(part[:2] for part in batch) if is_half else batch

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Train; at the end of the first fit some time after the last step that was logged."""
        if batch_idx == ENDS_IN and "killed" in self.words:
            time.sleep(PAUSE_SEC)
            os.kill(os.getpid(), signal.SIGKILL)
        if batch_idx == ENDS_IN and "raising" in self.words:
            raise ArithmeticError("broken")
        return super().training_step(batch, batch_idx)


class Asks(Callback):
    """Asks for the state on rank zero alone."""

    def __init__(self, asked: MFUCallback) -> None:
        self.asked, self.state = asked, {}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Ask in the sixth step, between two at which values are logged."""
        if batch_idx == 5 and trainer.global_rank == 0:
            self.state = self.asked.state_dict()


def main(directory: Path, how: str, checkpoint: str | None = None) -> None:
    """Train, and save what this rank ends with."""
    words = tuple(how.split("-"))
    torch.set_num_threads(1)
    seed_everything(1, verbose=False)
    callback = MFUCallback(peak=PEAK, warmup_steps=1, summary=None)
    asks = Asks(callback)
    trainer = make_trainer(
        callback,
        ModelCheckpoint(directory / words[0], every_n_train_steps=EVERY, save_top_k=-1),
        *([asks] if "alone" in words else []),
        enable_checkpointing=True,
        logger=TensorBoardLogger(directory, name="logs", version=words[0]),
        log_every_n_steps=LOG_EVERY,
        max_steps=LAST if checkpoint is None else 2 * LAST,
        **({"devices": 2, "strategy": "ddp"} if "ddp" in words else {}),
    )
    module = Ends(TINY)
    module.words = words
    trainer.fit(module, datamodule=tiny_data(length=800), ckpt_path=checkpoint)
    job = None if callback.summary is None or callback.summary.job is None else asdict(callback.summary.job)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    ends = {
        "job": job,
        "goodput": callback.summary and callback.summary.goodput,
        "metrics": metrics,
        "asked": asks.state,
    }
    torch.save(ends, directory / f"{how}-{trainer.global_rank}.pt")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
