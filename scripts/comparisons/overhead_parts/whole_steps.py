"""What a callback adds to whole steps: one process fits with each callback in turns and compares the steps' medians.

The time of a callback's own code leaves out what it does to the code around it: caches that it empties, attributes that
it makes slower to find. This has all of it, and the noise of whole steps.
"""

from __future__ import annotations

import argparse
import json
import logging
import warnings
from collections.abc import Callable
from time import perf_counter

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ThroughputMonitor
from torch.utils.data import DataLoader

from mfu_callback import MFUCallback
from scripts.comparisons.overhead_parts.run import BATCH_SIZE, Model, rows_of

LOG_EVERY = 50
CALLBACKS: dict[str, Callable[[], Callback]] = {
    "nothing": Callback,
    "MFUCallback": lambda: MFUCallback(peak=1e12, summary=None),
    "ThroughputMonitor": lambda: ThroughputMonitor(batch_size_fn=len),
}


class StepTimes(Callback):
    """Times whole steps."""

    def __init__(self) -> None:
        self.starts: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """A step begins."""
        self.starts.append(perf_counter())


def main() -> None:
    """Fit in turns, and print the microseconds that each callback adds to a step, turn by turn, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--turns", type=int, required=True)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    medians = np.array(
        [[median_step(make(), arguments.steps) for make in CALLBACKS.values()] for _ in range(arguments.turns)]
    )
    added = medians - medians[:, :1]
    print(json.dumps({name: added[:, column].tolist() for column, name in enumerate(CALLBACKS)}))


def median_step(callback: Callback, steps: int) -> float:
    """Returns the median microseconds of a step of one fit; one in fifty logs, which the median is not."""
    times = StepTimes()
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        log_every_n_steps=LOG_EVERY,
        callbacks=[times, callback],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(Model(10), DataLoader(rows_of(steps), batch_size=BATCH_SIZE))
    return 1e6 * float(np.median(np.diff(times.starts)[LOG_EVERY:]))


if __name__ == "__main__":
    main()
