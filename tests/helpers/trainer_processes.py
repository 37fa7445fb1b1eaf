"""Trains with the Trainer of transformers under torchrun: `trainer_processes.py DIRECTORY HOW`.

HOW is words joined by hyphens: "without" (no callback), "accumulate" (two micro-batches a step), "slow" (the last rank
sleeps in its forward pass). Each rank saves its results in DIRECTORY.
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch

from tests.helpers.trainer_runs import Texts, losses_of, make_callback, make_trainer

SLEEP_SEC = 0.1


def main(directory: Path, how: str) -> None:
    """Train, and save the weights, the log and the summary of this rank."""
    words = how.split("-")
    torch.set_num_threads(1)
    callback = make_callback(summary="line")
    trainer = make_trainer(
        directory / how,
        *([] if "without" in words else [callback]),
        data=Texts(128, padding=True),
        gradient_accumulation_steps=2 if "accumulate" in words else 1,
        ddp_backend="gloo",
        max_steps=20,
        logging_steps=5,
    )
    rank = trainer.args.process_index
    if "slow" in words and rank == 1:
        trainer.model.register_forward_pre_hook(lambda *_: time.sleep(SLEEP_SEC))
    trainer.train()
    ends = {
        "weights": trainer.model.state_dict(),
        "losses": losses_of(trainer),
        "summary": None if callback.summary is None else asdict(callback.summary),
    }
    torch.save(ends, directory / f"{how}-{rank}.pt")
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
