"""Loops of one's own that several tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from gpt.model import GPT
from mfu_callback import MFUMeter
from tests.helpers.runs import PEAK, TINY


def tiny_batches(steps: int = 12, *, samples: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of tokens and of their targets, each of shape (samples, 8)."""
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(TINY.vocab_size, (steps, samples, 9), generator=generator)
    return [(one[:, :-1], one[:, 1:]) for one in tokens]


def tiny_gpt() -> GPT:
    """The tiny GPT, with the same weights and the same state of the generator every time."""
    torch.manual_seed(1)
    return GPT(TINY)


def loss_of(model: Callable[..., Any], batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Cross-entropy of a batch, as a number."""
    tokens, targets = batch
    return nn.functional.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())


def train(
    model: nn.Module,
    batches: Iterable[Any],
    meter: MFUMeter | None,
    *,
    loss: Callable[[Callable[..., Any], Any], torch.Tensor] = loss_of,
    accumulate: int = 1,
    after_step: Callable[[int], None] = lambda step: None,
) -> None:
    """Train a model with AdamW and clipping, measured or not.

    Args:
        model: The model.
        batches: The batches.
        meter: The meter; None measures nothing.
        loss: The loss of the model on a batch.
        accumulate: Micro-batches of a step.
        after_step: Called after each block with its number.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for number, batch in enumerate(batches if meter is None else meter.fetch(batches)):
        with nullcontext() if meter is None else meter.step(batch):
            (loss(model, batch) / accumulate).backward()
            if (number + 1) % accumulate == 0:
                nn.utils.clip_grad_norm_(model.parameters(), 0.5)
                optimizer.step()
                optimizer.zero_grad()
        after_step(number)


def make_meter(model: nn.Module, **arguments: Any) -> MFUMeter:
    """A meter that prints nothing."""
    return MFUMeter(model, **{"peak": PEAK, "warmup_steps": 1, "summary": None} | arguments)
