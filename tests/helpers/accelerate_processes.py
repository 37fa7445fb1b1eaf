"""Trains in a loop with Accelerate under torchrun: `accelerate_processes.py DIRECTORY HOW`.

HOW is words joined by hyphens: "without" (no meter), "accumulate" (two micro-batches a step), "bf16" (mixed precision).
Each rank saves its results in DIRECTORY.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from mfu_callback import MFUMeter
from tests.helpers.runs import PEAK
from tests.helpers.trainer_runs import SAMPLES, Texts, gpt2

TEXTS = 84  # with two processes 21 batches each, of which the last is a step of its own
LOG_EVERY = 4


def main(directory: Path, how: str) -> None:
    """Train, and save the weights, the values and the summary of this rank."""
    words = how.split("-")
    torch.set_num_threads(1)
    accelerator = Accelerator(
        cpu=True,
        gradient_accumulation_steps=2 if "accumulate" in words else 1,
        mixed_precision="bf16" if "bf16" in words else "no",
    )
    model = gpt2()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer)
    loader = DataLoader(Texts(TEXTS, padding=True), batch_size=SAMPLES)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    meter = None if "without" in words else MFUMeter(model, peak=PEAK, warmup_steps=1, summary="line")
    values = []
    for batch in loader if meter is None else meter.fetch(loader):
        with nullcontext() if meter is None else meter.step(batch), accelerator.accumulate(model):
            accelerator.backward(model(**batch).loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        if meter is not None and meter.due(LOG_EVERY):
            values.append(meter.values())
    summary = None if meter is None else asdict(meter.close())
    weights = accelerator.unwrap_model(model).state_dict()
    rank = accelerator.process_index
    torch.save({"weights": weights, "values": values, "summary": summary}, directory / f"{how}-{rank}.pt")
    accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
