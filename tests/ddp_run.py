"""Trains a tiny GPT on two CPU processes: `ddp_run.py DIRECTORY with|without|failing`; each rank writes its end."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from lightning.pytorch import seed_everything
from runs import TINY, make_trainer, tiny_data

from gpt import GPTModule
from mfu_callback import MFUCallback


def main() -> None:
    """Train and save this rank's weights, metrics and summary."""
    directory, how = Path(sys.argv[1]), sys.argv[2]
    seed_everything(1, verbose=False)
    callback = MFUCallback(peak=1e12)
    trainer = make_trainer(*([] if how == "without" else [callback]), devices=2, strategy="ddp")
    if how == "failing" and trainer.global_rank == 1:
        import mfu_callback.flops.counter

        mfu_callback.flops.counter.thop_macs = lambda *_: 1 / 0
    module = GPTModule(TINY)
    trainer.fit(module, datamodule=tiny_data())
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name != "train/loss"}
    summary = callback.summary
    ends_with = {
        "weights": module.state_dict(),
        "metrics": metrics,
        "summary": None if summary is None else (summary.steps, summary.tokens, summary.mfu, summary.tokens_per_sec),
        "flops": None if summary is None or summary.flops is None else summary.flops.forward,
    }
    torch.save(ends_with, directory / f"{how}-{trainer.global_rank}.pt")


if __name__ == "__main__":
    main()
