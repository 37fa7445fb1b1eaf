"""Trains with both callbacks under one of Lightning's packages: `package_run.py PACKAGE DIRECTORY HOW`.

PACKAGE is lightning.pytorch or pytorch_lightning. What the run ended with goes to DIRECTORY/outcome.json. HOW is words
joined by hyphens: "alone" (the other package cannot be imported), "early" (the callbacks are imported before PACKAGE),
"made" (and made before it), "bare" (MFUCallback is handed to the Trainer outside of a list), "two" (DDP on two
processes), "wide" (no batch fits into the budget), "stopped" (find_batch_size finds the size, and ends its run from
inside).
"""

from __future__ import annotations

import json
import logging
import os
import sys
from importlib import import_module
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

MIB = 2**20
TOP_LEVEL = {"lightning.pytorch": ("lightning",), "pytorch_lightning": ("pytorch_lightning", "lightning_fabric")}
BUDGETS = {"wide": 4 * MIB}


class Hidden(MetaPathFinder):
    """Makes packages look as if they were not installed."""

    def __init__(self, *packages: str) -> None:
        self.packages = packages

    def find_spec(self, fullname: str, *_: Any) -> None:
        """Refuse the packages; other finders look for all else."""
        if fullname.partition(".")[0] in self.packages:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


def make_module(pl: Any) -> Any:
    """A model of tokens whose logits need 1 MiB per sample, and its data, which leave memory for some twenty."""

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.batch_size = 4
            self.embedding, self.head = nn.Embedding(4096, 64), nn.Linear(64, 4096)

        def loss(self, batch: list[Tensor]) -> Tensor:
            logits = self.head(self.embedding(batch[0]))  # (B, T, V)
            return nn.functional.cross_entropy(logits.flatten(0, 1), batch[0].flatten())

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            loss = self.loss(batch)
            self.log("loss", loss)
            return loss

        def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
            self.log("val_loss", self.loss(batch))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

        def train_dataloader(self) -> DataLoader:
            tokens = torch.randint(4096, (512, 64), generator=torch.Generator().manual_seed(1))
            return DataLoader(TensorDataset(tokens), batch_size=self.batch_size)

        val_dataloader = train_dataloader

    return Module()


def make_callbacks(words: list[str]) -> list[Any]:
    """Both callbacks, or only one where the run is about that one."""
    from mfu_callback import BatchSizeFinder, MFUCallback

    budget = next((BUDGETS[word] for word in words if word in BUDGETS), 100 * MIB)
    callback = MFUCallback(peak=1e12, warmup_steps=1)
    return [callback] if {"bare", "stopped"} & set(words) else [callback, BatchSizeFinder(budget=budget, margin=0.0)]


def train(package: str, directory: Path, words: list[str], callbacks: list[Any] | None) -> dict[str, Any]:
    """Train, and return what it came to."""
    pl, loggers = import_module(package), import_module(f"{package}.loggers")
    callbacks = callbacks or make_callbacks(words)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2 if "two" in words else 1,
        strategy="ddp" if "two" in words else "auto",
        callbacks=callbacks[0] if "bare" in words else [*callbacks],
        logger=loggers.TensorBoardLogger(directory, name="", version="run"),
        max_steps=6,
        val_check_interval=3,
        limit_val_batches=2,
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module, found = make_module(pl), None
    if "stopped" in words:
        from mfu_callback import find_batch_size

        found = find_batch_size(trainer, module, budget=100 * MIB, margin=0.0).batch_size
    trainer.fit(module)
    return {
        "size": found or next((one.result.batch_size for one in callbacks if hasattr(one, "result")), None),
        "loader": trainer.train_dataloader.batch_size,
        "trials": [[t.size, t.fits] for one in callbacks if hasattr(one, "result") for t in one.result.trials],
        "steps": callbacks[0].summary.steps,
        "forward": callbacks[0].summary.flops.forward,
        "metrics": sorted(trainer.callback_metrics),
        "is_own": [isinstance(one, pl.Callback) for one in callbacks],
    }


class Names(logging.Handler):
    """Collects the names of the loggers that MFUCallback's messages go to."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the name."""
        if record.getMessage().startswith("MFUCallback"):
            self.names.add(record.name)


def main() -> None:
    """Train as told and write the outcome."""
    package, directory, words = sys.argv[1], Path(sys.argv[2]), sys.argv[3].split("-")
    if "alone" in words:
        hidden = (name for other, names in TOP_LEVEL.items() if other != package for name in names)
        sys.meta_path.insert(0, Hidden(*hidden))
    if "early" in words:
        from mfu_callback import MFUCallback  # noqa: F401
    callbacks = make_callbacks(words) if "made" in words else None
    names = Names()
    exceptions = import_module(f"{package}.utilities.exceptions")
    logging.getLogger(f"{package}.utilities.rank_zero").addHandler(names)
    try:
        outcome = train(package, directory, words, callbacks)
    except exceptions.MisconfigurationException as error:
        outcome = {"error": str(error)}
    outcome |= {"loggers": sorted(names.names), "imported": [one for one in TOP_LEVEL if one in sys.modules]}
    if int(os.environ.get("LOCAL_RANK", 0)) == 0:
        (directory / "outcome.json").write_text(json.dumps(outcome))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
