"""Runs one search, or trains at one size, in its own process: `worker.py REQUEST`, where REQUEST is a JSON object.

Writes one JSON object to standard output: the fields of `Row` or of `Training` in `finder_parts/row.py`.
"""

from __future__ import annotations

import json
import logging
import os
import random
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.tuner import Tuner

from mfu_callback.finder import BatchSizeResult, find_batch_size
from scripts.comparisons.finder_parts.budget import fix_heap_thresholds, limited_to, used_bytes
from scripts.comparisons.finder_parts.row import Request, Row, Training
from scripts.comparisons.finder_parts.subjects import LOG, SUBJECTS, Subject
from scripts.comparisons.finder_parts.traces import differences, traces

with suppress(ImportError):  # here, so that it is not timed as part of a search; without it, its rows have an error
    import accelerate.utils

_STEPS = 2  # the optimizer has a state from the second one on
_NO_MAXIMUM = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What a finder receives.

    Attributes:
        subject: What to train.
        module: The model.
        data: Its data.
        trainer: A Trainer that has not run.
        budget_bytes: Memory that the model and everything that its training allocates may use.
        total_bytes: Memory that this whole process may use, so that training stays within ``budget_bytes``.
    """

    subject: Subject
    module: LightningModule
    data: LightningDataModule
    trainer: Trainer
    budget_bytes: int
    total_bytes: int


def main() -> None:
    """Do what the command line asks for."""
    request = Request(**json.loads(sys.argv[1]))
    answer, sys.stdout = sys.stdout, sys.stderr  # what a tool prints is no answer
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    fix_heap_thresholds()
    with TemporaryDirectory() as directory:
        os.chdir(directory)
        case = prepare(request)
        done = search(case, request) if request.size is None else train(case, request.size)
        os.chdir("/")
    print(json.dumps(asdict(done)), file=answer)


def prepare(request: Request) -> Case:
    """Returns everything that a search needs, after this process has trained once.

    Memory that only the first steps of a process need is allocated here, without a limit: a lazy import or a thread
    that fails half-way under a limit breaks the process.
    """
    subject = SUBJECTS[request.model]
    fit(make_trainer(), subject.module(), subject.data(), size=2)
    data, trainer = subject.data(), make_trainer()
    used = used_bytes()
    return Case(
        subject=subject,
        module=subject.module(),
        data=data,
        trainer=trainer,
        budget_bytes=request.budget_bytes,
        total_bytes=used + request.budget_bytes,
    )


def search(case: Case, request: Request) -> Row:
    """Run the search, and compare the state after it with the state before it."""
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(0)
    before = traces(case.module, case.trainer)
    LOG.clear()
    found, error, trials = None, None, []
    start = perf_counter()
    try:
        found = FINDERS[request.finder](case)
        if isinstance(found, BatchSizeResult):
            found, trials = found.batch_size, [trial.size for trial in found.trials]
    except Exception as raised:
        error = " ".join(f"{type(raised).__name__}: {raised}".split())
    return Row(
        finder=request.finder,
        model=request.model,
        found=found,
        seconds=perf_counter() - start,
        ran=found is not None and LOG.ended[found] >= _STEPS,
        sizes=len(set(LOG.begun)),
        attempts=LOG.attempts,
        steps=len(LOG.begun),
        trials=trials,
        left=differences(before, traces(case.module, case.trainer)),
        wrote=sorted({os.path.splitext(name)[1] for name in LOG.files}),
        error=error,
    )


def train(case: Case, size: int) -> Training:
    """Returns whether a size trains within the budget; any exception means that it does not."""
    try:
        with limited_to(case.total_bytes):
            fit(case.trainer, case.module, case.data, size)
    except Exception as error:
        return Training(fits=False, why=" ".join(f"{type(error).__name__}: {error}".split()))
    return Training(fits=LOG.ended[size] >= _STEPS, why="ran")


def fit(trainer: Trainer, module: LightningModule, data: Any, size: int) -> None:
    """Train for two steps."""
    data.batch_size = size
    trainer.fit_loop.epoch_loop.max_steps = _STEPS
    trainer.fit(module, datamodule=data)


def make_trainer() -> Trainer:
    """Returns a silent Trainer that has a user's callback."""
    return Trainer(
        accelerator="cpu",
        max_steps=1000,
        callbacks=[Callback()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def ours(**options: Any) -> Callable[[Case], BatchSizeResult]:
    """Returns the finder of this package, which sets its own limit."""

    def find(case: Case) -> BatchSizeResult:
        return find_batch_size(case.trainer, case.module, datamodule=case.data, budget=case.budget_bytes, **options)

    return find


def lightnings(mode: str, **options: Any) -> Callable[[Case], int | None]:
    """Returns Lightning's finder, within the budget."""

    def find(case: Case) -> int | None:
        with limited_to(case.total_bytes):
            return Tuner(case.trainer).scale_batch_size(case.module, datamodule=case.data, mode=mode, **options)

    return find


def accelerates(start: int) -> Callable[[Case], int]:
    """Returns accelerate's finder, within the budget.

    The function that it calls makes the model and the data, as its guide says.
    """

    def find(case: Case) -> int:
        @accelerate.utils.find_executable_batch_size(starting_batch_size=start)
        def train_two_steps(batch_size: int) -> int:
            train_plainly(case.subject.module(), case.subject.data(), batch_size)
            return batch_size

        with limited_to(case.total_bytes):
            return train_two_steps()

    return find


def train_plainly(module: Any, data: Any, size: int) -> None:
    """Train two steps in a loop without a Trainer."""
    data.batch_size = size
    batches, optimizer = iter(data.train_dataloader()), module.configure_optimizers()
    module.on_train_start()
    for index in range(_STEPS):
        batch = next(batches)
        loss = module.training_step(batch, index)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        module.on_train_batch_end(None, batch, index)


FINDERS: dict[str, Callable[[Case], BatchSizeResult | int | None]] = {
    "ours": ours(margin=0.0, resolution=0.0),
    "ours, as it comes": ours(),
    "binsearch": lightnings("binsearch", margin=0.0, max_val=_NO_MAXIMUM),
    "binsearch, as it comes": lightnings("binsearch"),
    "power, as it comes": lightnings("power"),
    "accelerate, as it comes": accelerates(128),
    "accelerate from 1024": accelerates(1024),
}

if __name__ == "__main__":
    main()
