"""Trains in a loop of its own under torchrun: `loop_processes.py DIRECTORY HOW`; each rank saves its results there.

HOW is words joined by hyphens: "ddp" or "fsdp2", and any of these: "without" (no meter), "slow" (the last rank sleeps
in its forward pass), "uneven" (the last rank's batches are half as large), "accumulate" (two micro-batches a step, the
first without synchronization), "raising" (the last rank raises in its fifth block).
"""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from tests.helpers.loop_runs import loss_of, make_meter, tiny_batches, tiny_gpt
from tests.helpers.torch_features import fully_shard

STEPS, LOG_EVERY, SLEEP_SEC = 41, 10, 0.1


def main(directory: Path, how: str) -> None:
    """Train, and save the weights, the values and the summary of this rank."""
    words = how.split("-")
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    is_last = rank == dist.get_world_size() - 1
    model = tiny_gpt()
    torch.manual_seed(rank)
    called = DistributedDataParallel(model) if "ddp" in words else fully_shard(model)
    if "slow" in words and is_last:
        model.dropout.register_forward_pre_hook(lambda *_: time.sleep(SLEEP_SEC))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    meter = None if "without" in words else make_meter(called)
    batches = tiny_batches(STEPS, samples=2 if "uneven" in words and is_last else 4)
    values = []
    accumulate = 2 if "accumulate" in words else 1
    for number, batch in enumerate(batches if meter is None else meter.fetch(batches)):
        is_end = (number + 1) % accumulate == 0
        with nullcontext() if meter is None else meter.step(batch):
            if "raising" in words and is_last and number == 5:
                raise ValueError("the user's own")
            with nullcontext() if is_end or "ddp" not in words else called.no_sync():
                (loss_of(called, batch) / accumulate).backward()
            if is_end:
                optimizer.step()
                optimizer.zero_grad()
        if meter is not None and meter.due(LOG_EVERY):
            values.append(meter.values())
    summary = None if meter is None else asdict(meter.close())
    weights = {
        name: getattr(value, "full_tensor", lambda value=value: value)() for name, value in model.state_dict().items()
    }
    torch.save({"weights": weights, "values": values, "summary": summary}, directory / f"{how}-{rank}.pt")
    dist.barrier()  # so that all have saved if gloo aborts one of them as it ends
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
