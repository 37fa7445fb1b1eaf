"""Searches on CPU processes: `finder_run.py DIRECTORY HOW`; each rank saves its results in DIRECTORY.

HOW is words joined by hyphens: a strategy (ddp or fsdp2), the number of processes, and any of these: "uneven" (the
second rank has half the budget), "capped" (no size above GIVEN is tried), "given" (trains at size GIVEN without a
search), "loaders" (fit receives the loader), "gathering" (the step gathers from all ranks), "raising" (the second
rank's step raises in larger trials), "exhausting" (the second rank runs out of memory in larger trials, though they
were predicted to fit), "tight" (no size fits the second rank's budget), "tokens" (batches are filled by tokens, and the
second rank's samples are longer), "few" (an epoch has FEW samples), "sampled" (drawn by a DistributedSampler).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from mfu_callback import BatchSizeFinder
from tests.helpers.finder_models import MIB, Sequences, TinyGPT, fitted
from tests.helpers.token_batches import LONGEST, UNSEEN, Sentences, loader_of
from tests.helpers.torch_features import fully_shard

RANK = int(os.environ.get("LOCAL_RANK", 0))
BUDGET = 200 * MIB
GIVEN = 11
FEW = 21


class Model(TinyGPT):
    """The small GPT, which gathers or fails if HOW says so."""

    words: tuple[str, ...] = ()

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Train, then gather, or fail on the second rank, if HOW says so."""
        loss = super().training_step(batch, batch_idx)
        if "raising" in self.words and RANK == 1 and len(batch) >= 8:
            raise ArithmeticError("broken")
        if "exhausting" in self.words and RANK == 1 and len(batch) >= 8:
            raise torch.OutOfMemoryError("no memory is left")
        if "gathering" in self.words:
            gathered = self.all_gather(loss, sync_grads=True)
            assert gathered.shape == (self.trainer.world_size,)
            loss = gathered.mean()
        return loss


class Sharded(Model):
    """The small GPT, sharded by FSDP2."""

    def configure_model(self) -> None:
        """Shard over the ranks."""
        mesh = self.device_mesh["data_parallel"]
        for part in (self.embedding, *self.blocks.layers, self.head):
            fully_shard(part, mesh=mesh)


class WithoutLoader(Model):
    """The small GPT without train_dataloader(), for loaders that are passed to fit."""

    train_dataloader = LightningModule.train_dataloader


def budget_of(words: tuple[str, ...]) -> int:
    """The budget of this rank, in bytes."""
    if RANK == 0:
        return BUDGET
    return 5 * MIB if "tight" in words else BUDGET // 2 if "uneven" in words else BUDGET


def main() -> None:
    """Search, train and save this rank's result and weights."""
    directory, words = Path(sys.argv[1]), tuple(sys.argv[2].split("-"))
    processes = int(words[1])
    torch.manual_seed(1)
    kind = Sharded if words[0] == "fsdp2" else WithoutLoader if "loaders" in words else Model
    model = kind(batch_size=GIVEN if "given" in words else 4)
    model.words = words
    if "few" in words:
        model.dataset = Sequences(FEW)
    most: dict[str, int] = {"max_tokens": 12 * LONGEST} if "tokens" in words else {}
    if "capped" in words:
        most = {"max_size": GIVEN}
    finder = BatchSizeFinder(budget=budget_of(words), **most)
    strategy: Any = "ddp"
    if words[0] == "fsdp2":
        strategy = ModelParallelStrategy(data_parallel_size=processes, tensor_parallel_size=1)
    sampler = DistributedSampler(model.dataset, processes, RANK) if "sampled" in words else None
    loader = DataLoader(model.dataset, batch_size=4, shuffle=sampler is None, sampler=sampler)
    if "tokens" in words:
        sentences = Sentences(longest_at=0 if RANK else UNSEEN)
        loader = loader_of(sentences)
    run = fitted(
        model,
        *([] if "given" in words else [finder]),
        devices=processes,
        strategy=strategy,
        fit=[loader] if "loaders" in words else [],
        use_distributed_sampler="tokens" not in words,
    )
    trials = [] if finder.result is None else finder.result.trials
    ends_with = {
        "weights": {n: getattr(t, "to_local", lambda t=t: t)() for n, t in model.state_dict().items()},
        "batch_size": None if finder.result is None else finder.result.batch_size,
        "stopped_by": None if finder.result is None else finder.result.stopped_by,
        "own_largest": () if finder.result is None else finder.result.own_largest,
        "trials": [(trial.size, trial.fits, trial.peak_bytes, trial.why) for trial in trials],
        "loader": run.train_dataloader.batch_size,
        "steps": run.global_step,
        "max_tokens": getattr(run.train_dataloader.batch_sampler, "max_tokens", None),
    }
    torch.save(ends_with, directory / f"{sys.argv[2]}-{RANK}.pt")
    torch.distributed.destroy_process_group()  # if left to the interpreter's exit, it sometimes aborts the process


if __name__ == "__main__":
    main()
