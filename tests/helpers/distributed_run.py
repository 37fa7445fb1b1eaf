"""Trains on CPU processes: `distributed_run.py DIRECTORY HOW`; each rank saves its results in DIRECTORY.

HOW is words joined by hyphens: a strategy (ddp, fsdp2, or tp, where pairs of processes share a batch), the number of
processes, and any of these: "without" (no callback), "failing" (the count fails on the second rank), "unheard" (the
second rank's exchange of values fails), "raising" (the second rank's training step raises), "interrupted" (each rank
sends itself a Ctrl-C in its fifth step), "compiled" (the blocks are compiled), "uneven" (the second rank's batches are
half as large), "modules" (modules are timed), "told" (the first rank alone knows that bfloat16 is four times as fast),
"slow" with "data" or "forward" (the last rank sleeps there in every step), "rarely" (in every fifth step only),
"hooked" (a communication hook of the user's turns the gradients around).
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
import torch.distributed._functional_collectives as functional_collectives
from lightning.pytorch import LightningModule, seed_everything
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import nn
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import mfu_callback.flops.compiled_regions
import mfu_callback.lightning.trainer_ranks
import mfu_callback.meter.peak_of_run
from gpt import GPTModule
from mfu_callback import MFUCallback
from mfu_callback.peaks import DtypeRate, Peak
from tests.helpers.runs import TINY, make_trainer, tiny_data
from tests.helpers.torch_features import fully_shard

STEPS = {2: 200, 4: 30}  # by the number of processes; four processes wait for one another a lot
SLOW_STEPS, SLEEP_SEC = 23, 0.1
EVERY = 5  # with "rarely": only one step of five is slow, and the more so

LOG_EVERY = 10
BUCKET_BYTES = 1 << 12  # of DDP's buckets: less than the tiny GPT has
RATES = {
    dtype: DtypeRate(
        peak=Peak(flops_per_sec=rate, name="X", dtype=dtype, source="measured: in turns"), in_training=rate
    )
    for dtype, rate in ((torch.float32, 1e12), (torch.bfloat16, 4e12))
}


class Breaking(GPTModule):
    """The GPT; in its fifth step it raises on the second rank or is interrupted on all ranks, if HOW says so."""

    how: tuple[str, ...] = ()

    def on_fit_start(self) -> None:
        """Register the communication hook, which Lightning does on CUDA alone."""
        if "hooked" in self.how:
            self.trainer.strategy.model.register_comm_hook(None, turned)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Raise or interrupt if HOW says so, then train."""
        if batch_idx == 4 and "raising" in self.how and self.trainer.global_rank == 1:
            raise ArithmeticError("broken")
        if batch_idx == 4 and "interrupted" in self.how:
            os.kill(os.getpid(), signal.SIGINT)
        self.sleep("forward", batch_idx)
        return super().training_step(batch, batch_idx)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Returns half the batch on the second rank with "uneven", else the whole batch."""
        self.sleep("data", self.trainer.global_step)
        is_half = "uneven" in self.how and self.trainer.global_rank == 1
        return tuple(part[:2] for part in batch) if is_half else batch

    def sleep(self, where: str, step: int) -> None:
        """Sleep on the last rank if HOW says so."""
        is_late = self.trainer.global_rank == self.trainer.world_size - 1 and {"slow", where} <= set(self.how)
        if "window" in self.how and not LOG_EVERY <= step < 2 * LOG_EVERY:
            return
        if is_late and "rarely" not in self.how:
            # Four processes on fewer cores are late by themselves now and then.
            time.sleep(SLEEP_SEC if self.trainer.world_size == 2 else 4 * SLEEP_SEC)
        elif is_late and step % EVERY == 0:
            time.sleep(EVERY * SLEEP_SEC)


class Sharded(Breaking):
    """The GPT, its blocks and its other parameters sharded by FSDP2; with "compiled", the blocks are compiled."""

    def configure_model(self) -> None:
        """Shard over the ranks."""
        mesh = self.device_mesh["data_parallel"]
        if "compiled" in self.how:
            for block in self.model.blocks:
                block.compile(backend="aot_eager")
        for part in (*self.model.blocks, self.model):
            fully_shard(part, mesh=mesh)


class Attention(nn.Module):
    """Attention whose two heads are split over a pair of processes, on plain tensors between sharded projections."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16, bias=False) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, 16) -> (B, T, 16)."""
        q, k, v = (part(x).unflatten(-1, (-1, 8)).transpose(1, 2) for part in (self.q, self.k, self.v))
        return self.o(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class TensorParallel(LightningModule):
    """An attention that is split over pairs of processes, and a head that both of a pair compute."""

    # Forward FLOPs of 4 x 8 tokens: four projections, two matmuls of attention, the head.
    flops = 4 * (4 * 2 * 8 * 16**2 + 2 * 2 * 8**2 * 16 + 2 * 8 * 16 * 64)
    how: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.attention, self.head = nn.Embedding(64, 16), Attention(), nn.Linear(16, 64, bias=False)

    def configure_model(self) -> None:
        """Split the attention."""
        plan = {"q": ColwiseParallel(), "k": ColwiseParallel(), "v": ColwiseParallel(), "o": RowwiseParallel()}
        parallelize_module(self.attention, self.device_mesh["tensor_parallel"], plan)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Predict the next token."""
        tokens, targets = batch
        logits = self.head(self.attention(self.embedding(tokens)))
        return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD, one tensor at a time: the foreach kernels do not accept plain and split tensors together."""
        return torch.optim.SGD(self.parameters(), lr=0.1, foreach=False)


STRATEGIES: dict[str, Any] = {
    "ddp": lambda processes: DDPStrategy(bucket_cap_mb=BUCKET_BYTES / 2**20),
    "fsdp2": lambda processes: ModelParallelStrategy(data_parallel_size=processes, tensor_parallel_size=1),
    "tp": lambda processes: ModelParallelStrategy(data_parallel_size=processes // 2, tensor_parallel_size=2),
}
MODULES: dict[str, Any] = {"ddp": Breaking, "fsdp2": Sharded, "tp": TensorParallel}


def local(tensor: Any) -> torch.Tensor:
    """A tensor, or this rank's shard of it."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def turned(state, bucket):  # DDP reads annotations, and finds text
    """A communication hook that gives the mean gradients of all ranks with the opposite sign."""
    work = torch.distributed.all_reduce(bucket.buffer() / -torch.distributed.get_world_size(), async_op=True)
    return work.get_future().then(lambda future: future.value()[0])


def unreachable(*_: Any) -> Any:
    """Fails as an exchange does without a network."""
    raise ConnectionError("the network is gone")


def count_calls(owner: Any, method: str) -> list[None]:
    """A list that gets an entry for each call of a method of an object."""
    calls: list[None] = []
    original = getattr(owner, method)

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(None)
        return original(*args, **kwargs)

    setattr(owner, method, counted)
    return calls


def main() -> None:
    """Train and save this rank's weights, metrics, summary and count."""
    directory, words = Path(sys.argv[1]), tuple(sys.argv[2].split("-"))
    kind, processes = words[0], int(words[1])
    seed_everything(1, verbose=False)
    if "slow" in words:  # several threads that were asleep are slow when they wake up
        torch.set_num_threads(1)
    callback = MFUCallback(peak=1e12, modules="modules" in words)
    trainer = make_trainer(
        *([] if "without" in words else [callback]),
        devices=processes,
        strategy=STRATEGIES[kind](processes),
        max_steps=SLOW_STEPS if "slow" in words else STEPS[processes],
        log_every_n_steps=LOG_EVERY,
        logger=CSVLogger(directory, name=sys.argv[2], version="") if "logged" in words else False,
    )
    if "failing" in words and trainer.global_rank == 1:
        mfu_callback.flops.compiled_regions.compiled_calls_watched = lambda *_: 1 / 0
    if "unheard" in words and trainer.global_rank == 1:
        mfu_callback.lightning.trainer_ranks.begin_gather = unreachable
    if "told" in words:
        known = trainer.global_rank == 0
        mfu_callback.meter.peak_of_run.rates_in_training = lambda *_, **__: RATES if known else 1 / 0
    module = MODULES[kind]() if kind == "tp" else MODULES[kind](TINY)
    if words[0] == "ddp" and "compiled" in words:  # in several graphs, one for each bucket of DDP
        torch.distributed._DEFAULT_FIRST_BUCKET_BYTES = BUCKET_BYTES
        module.model.compile(backend="aot_eager")
    module.how = words
    gathers = count_calls(trainer.strategy, "all_gather")
    sent = count_calls(mfu_callback.lightning.trainer_ranks, "begin_gather")
    wait, wait_tensor = torch.distributed.Work.wait, functional_collectives.wait_tensor
    trainer.fit(module, datamodule=tiny_data(length=400 * processes))
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name != "train/loss"}
    summary = callback.summary
    count = None if summary is None else summary.flops
    modules = None if summary is None else summary.modules
    ends_with = {
        "weights": {name: local(tensor) for name, tensor in module.state_dict().items()},
        "metrics": metrics,
        "summary": None if summary is None else (summary.steps, summary.tokens, summary.mfu, summary.tokens_per_sec),
        "flops": None if count is None else (count.forward, count.thop, count.backward, count.recomputed),
        "uncounted": None if count is None else count.uncounted,
        "gathers": len(gathers),
        "sent": len(sent),
        "left": (torch.distributed.Work.wait, functional_collectives.wait_tensor) != (wait, wait_tensor),
        "devices": None if summary is None or summary.devices is None else [asdict(one) for one in summary.devices],
        "pace": None if summary is None or summary.pace is None else asdict(summary.pace),
        "waterfall": None if summary is None else summary.waterfall,
        "hints": None if summary is None else (summary.hints, summary.mfu_fastest),
        "modules": None if modules is None else {row.name: row.flops for row in modules},
    }
    torch.save(ends_with, directory / f"{sys.argv[2]}-{trainer.global_rank}.pt")
    torch.distributed.destroy_process_group()  # if left to the interpreter's exit, it sometimes aborts the process


if __name__ == "__main__":
    main()
