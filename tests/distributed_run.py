"""Trains a tiny GPT on two CPU processes: `distributed_run.py DIRECTORY HOW`; each rank writes what it ends with.

HOW is the strategy, ddp or fsdp2, with "-without" for a run without the callback, "-failing" for one whose count
fails on the second rank, or "-compiled" for compiled blocks.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.strategies import ModelParallelStrategy
from runs import TINY, make_trainer, tiny_data
from torch.distributed.fsdp import fully_shard

import mfu_callback.flops.counter
from gpt import GPTModule
from mfu_callback import MFUCallback


class Sharded(GPTModule):
    """The GPT with each block and the rest of it sharded by FSDP2, and the blocks compiled where that is asked for."""

    compiled = False

    def configure_model(self) -> None:
        """Shard over the ranks."""
        mesh = self.device_mesh["data_parallel"]
        if self.compiled:
            for block in self.model.blocks:
                block.compile(backend="aot_eager")
        for part in (*self.model.blocks, self.model):
            fully_shard(part, mesh=mesh)


def local(tensor: Any) -> torch.Tensor:
    """A tensor, or this rank's shard of it."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def main() -> None:
    """Train and save this rank's weights, metrics, summary and count."""
    directory, how = Path(sys.argv[1]), sys.argv[2]
    seed_everything(1, verbose=False)
    callback = MFUCallback(peak=1e12)
    strategy = ModelParallelStrategy() if how.startswith("fsdp2") else "ddp"
    trainer = make_trainer(*([] if "without" in how else [callback]), devices=2, strategy=strategy)
    if "failing" in how and trainer.global_rank == 1:
        mfu_callback.flops.counter.compiled_calls_watched = lambda *_: 1 / 0
    module = (Sharded if how.startswith("fsdp2") else GPTModule)(TINY)
    module.compiled = "compiled" in how
    trainer.fit(module, datamodule=tiny_data())
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name != "train/loss"}
    summary = callback.summary
    count = None if summary is None else summary.flops
    ends_with = {
        "weights": {name: local(tensor) for name, tensor in module.state_dict().items()},
        "metrics": metrics,
        "summary": None if summary is None else (summary.steps, summary.tokens, summary.mfu, summary.tokens_per_sec),
        "flops": None if count is None else (count.forward, count.thop, count.backward, count.recomputed),
        "uncounted": None if count is None else count.uncounted,
    }
    torch.save(ends_with, directory / f"{how}-{trainer.global_rank}.pt")
    torch.distributed.destroy_process_group()  # left to the interpreter's end, it now and then aborts the process


if __name__ == "__main__":
    main()
