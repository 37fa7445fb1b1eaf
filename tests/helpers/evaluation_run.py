"""Evaluates on two CPU processes: `evaluation_run.py DIRECTORY HOW`; each rank saves its figures in DIRECTORY.

HOW is words joined by hyphens: a stage (validate, test, predict, or fit, with validations inside) and any of these:
"without" (no callback), "unequal" (the second rank's batches are half as large), "fewer" (the second rank has fewer
batches), "failing" (the count fails on the second rank), "interrupted" (each rank sends itself a Ctrl-C in its fourth
batch).
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import seed_everything

import mfu_callback.flops.compiled_regions
from mfu_callback import MFUCallback
from tests.helpers.evaluated import Evaluated, evaluate, token_batches
from tests.helpers.runs import make_trainer

BATCHES, FEWER, STEPS = 12, 9, 8


class OnTwo(Evaluated):
    """The GPT; the processes have batches of their own."""

    how: tuple[str, ...] = ()

    def val_dataloader(self) -> Any:
        """All batches, or fewer on the second rank."""
        is_fewer = "fewer" in self.how and self.trainer.global_rank == 1
        return token_batches(4 * (FEWER if is_fewer else BATCHES))

    test_dataloader = predict_dataloader = val_dataloader

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Half the batch on the second rank with "unequal"."""
        is_half = "unequal" in self.how and self.trainer.global_rank == 1
        return [part[:2] for part in batch] if is_half else batch

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Interrupt if HOW says so, then log the loss."""
        if batch_idx == 3 and "interrupted" in self.how:
            os.kill(os.getpid(), signal.SIGINT)
        self.log("test/loss", self._loss(batch), sync_dist=True)


def main() -> None:
    """Evaluate, and save this rank's figures, metrics and outputs."""
    directory, how = Path(sys.argv[1]), tuple(sys.argv[2].split("-"))
    stage = how[0]
    seed_everything(1, verbose=False)
    callback = MFUCallback(peak=1e12, warmup_steps=2, validation=True)
    trainer = make_trainer(
        *([] if "without" in how else [callback]),
        devices=2,
        strategy="ddp",
        use_distributed_sampler=False,
        max_steps=STEPS,
        val_check_interval=4,
    )
    if "failing" in how and trainer.global_rank == 1:
        mfu_callback.flops.compiled_regions.compiled_calls_watched = lambda *_: 1 / 0
    module = OnTwo()
    module.how = how
    out = trainer.fit(module) if stage == "fit" else evaluate(stage, module, trainer)
    figures = callback.evaluations.get("validate" if stage == "fit" else stage)
    ends_with = {
        "out": out,
        "weights": module.state_dict(),
        "metrics": {name: float(value) for name, value in trainer.callback_metrics.items() if "/loss" not in name},
        "figures": None if figures is None else (figures.steps, figures.tokens, figures.mfu, figures.tokens_per_sec),
        "flops": None if figures is None or figures.flops is None else figures.flops.forward,
    }
    torch.save(ends_with, directory / f"{sys.argv[2]}-{trainer.global_rank}.pt")
    torch.distributed.destroy_process_group()  # if left to the interpreter's exit, it sometimes aborts the process


if __name__ == "__main__":
    main()
