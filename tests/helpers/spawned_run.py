"""Searches in processes that a strategy spawns: `spawned_run.py STRATEGY DIRECTORY`; prints a line of JSON.

It is what the main process sees: the result before any fit; that of a first fit, twice; of a second one with other
options; of a third one, which fails; of a run that is resumed from a checkpoint of the first; and the files that are
left in the temporary directory.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from mfu_callback import BatchSizeFinder
from tests.helpers.finder_models import Tabular, trainer


class Checked(BatchSizeFinder):
    """A finder whose processes look at the result before the main process does."""

    def search_with(self, **options: Any) -> None:
        """Change the options of the next search."""
        self._options = replace(self._options, **options)

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        assert self.result is not None
        assert self.result.batch_size == trainer.train_dataloader.batch_size

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        super().teardown(trainer, pl_module, stage)
        _end_processes()

    def _search(self, *arguments: Any) -> None:
        try:
            super()._search(*arguments)
        except BaseException:
            _end_processes()
            raise


def _end_processes() -> None:
    """Left to the exit of its process, gloo sometimes aborts it."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def seen(finder: BatchSizeFinder) -> Any:
    """The result's size and the sizes of its trials."""
    return None if finder.result is None else [finder.result.batch_size, [t.size for t in finder.result.trials]]


def main() -> None:
    """Fit four times."""
    strategy, directory = sys.argv[1], Path(sys.argv[2])
    options: dict[str, Any] = {"devices": 2, "strategy": strategy}
    finder = Checked(max_size=12)
    sights = {"before": seen(finder)}

    logger, checkpoints = CSVLogger(directory, name="", version="run"), ModelCheckpoint(directory, save_last=True)
    run = trainer(finder, checkpoints, logger=logger, enable_checkpointing=True, **options)
    run.fit(Tabular())
    sights |= {"first": seen(finder), "first again": seen(finder)}

    finder.search_with(max_size=5)
    trainer(finder, **options).fit(Tabular())
    sights["second"] = seen(finder)

    finder.search_with(budget=1)
    try:
        trainer(finder, **options).fit(Tabular())
    except Exception as error:  # torch's, with the text of the process's
        sights["error"] = str(error)
    sights["failed"] = seen(finder)

    resumed = Checked(max_size=60)
    trainer(resumed, max_steps=5, **options).fit(Tabular(), ckpt_path=directory / "last.ckpt")
    sights["resumed"] = seen(resumed)
    print(json.dumps(sights | {"left": [path.name for path in Path(gettempdir()).glob("mfu_callback-*")]}))


if __name__ == "__main__":
    main()
