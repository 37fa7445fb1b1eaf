"""Trains a tiny GPT on two processes, its weights sharded: `sharded_gpt.py DIRECTORY HOW`.

Each rank saves the losses, the whole weights, and which of its parameters are sharded. HOW is "fsdp2",
"fsdp2-checkpoint" (activations are checkpointed), "fsdp2-untied" (the head has weights of its own) or "tensors" (a
strategy that would split tensors), whose error each rank saves.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.tensor import DTensor

from gpt import GPTConfig, GPTModule
from tests.helpers.runs import make_trainer, tiny_data

CONFIG = GPTConfig(n_layer=2, n_head=2, n_embd=16, vocab_size=64, context_length=8)
STEPS = 5


class RecordLoss(GPTModule):
    """Takes its rank's share of each batch, and keeps the loss of every step, the mean over all ranks."""

    def on_fit_start(self) -> None:
        """Begin."""
        self.losses: list[float] = []

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """The rows of this rank."""
        return tuple(part[self.trainer.global_rank :: self.trainer.world_size] for part in batch)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Keep a loss."""
        self.losses.append(self.trainer.strategy.reduce(outputs["loss"], reduce_op="mean").item())


def trained(how: str, *, strategy: Any = "auto", devices: int = 1) -> RecordLoss:
    """The GPT after a few steps of 4 x 8 tokens, which are the same for any number of processes.

    Args:
        how: As on the command line.
        strategy: The Trainer's.
        devices: The Trainer's.
    """
    seed_everything(1, verbose=False)
    config = replace(CONFIG, tie_head="untied" not in how)
    module = RecordLoss(config, checkpoint_activations="checkpoint" in how)
    options = {"strategy": strategy, "devices": devices, "use_distributed_sampler": False}
    make_trainer(max_steps=STEPS, **options).fit(module, tiny_data().train_dataloader())
    return module


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor with all its shards."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def main() -> None:
    """Train on this rank, and save what it ends with."""
    directory, how = Path(sys.argv[1]), sys.argv[2]
    processes = int(os.environ["WORLD_SIZE"])
    sizes = (1, processes) if how == "tensors" else (processes, 1)
    strategy = ModelParallelStrategy(data_parallel_size=sizes[0], tensor_parallel_size=sizes[1])
    try:
        module = trained(how, strategy=strategy, devices=processes)
        ends = {
            "losses": module.losses,
            "weights": {name: whole(weight).detach() for name, weight in module.state_dict().items()},
            "sharded": [name for name, weight in module.named_parameters() if isinstance(weight, DTensor)],
            "tied": module.model.head.weight is module.model.token_embedding.weight,
        }
    except ValueError as error:
        ends = {"error": str(error)}
    torch.save(ends, directory / f"{how}-{os.environ['RANK']}.pt")
    torch.distributed.destroy_process_group()  # if left to the interpreter's exit, it sometimes aborts the process


if __name__ == "__main__":
    main()
