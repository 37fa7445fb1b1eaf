"""The work of single steps, and of several together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from mfu_callback.flops.repeated_counts import TrainingFlops
from mfu_callback.meter.done import Done
from mfu_callback.tools import accelerators


@dataclass(slots=True)
class Amounts:
    """The work of one step; unknown is NaN. Holds no seconds.

    Attributes:
        samples: Samples of all its micro-batches.
        tokens: Tokens of all its micro-batches.
        flops: Model FLOPs of the forward and backward passes.
        recomputed_flops: FLOPs that run a second time.
        real_tokens: Tokens without padding of each micro-batch, as numbers on the device; None without a mask.
        loss_tokens: Tokens that the loss is taken over, of each micro-batch, likewise; None without labels.
        of_dtypes: Model FLOPs by dtype of each micro-batch that multiplies several.
    """

    samples: float = 0.0
    tokens: float = 0.0
    flops: float = 0.0
    recomputed_flops: float = 0.0
    real_tokens: list[torch.Tensor | None] = field(default_factory=list)
    loss_tokens: list[torch.Tensor | None] = field(default_factory=list)
    of_dtypes: list[Mapping[str, float]] = field(default_factory=list)

    def add_batch(
        self, tokens: float, samples: float, real_tokens: torch.Tensor | None, loss_tokens: torch.Tensor | None
    ) -> None:
        """Add a micro-batch.

        Args:
            tokens: Its tokens.
            samples: Its samples.
            real_tokens: Its tokens without padding, a number on the device; None without a mask.
            loss_tokens: Its tokens that the loss is taken over, likewise; None without labels.
        """
        self.tokens += tokens
        self.samples += samples
        self.real_tokens.append(real_tokens)
        self.loss_tokens.append(loss_tokens)

    def add_pass(self, flops: TrainingFlops) -> None:
        """Add the FLOPs of one forward and backward pass of a micro-batch."""
        self.flops += flops.model
        self.recomputed_flops += flops.recomputed
        if flops.of_dtypes:
            self.of_dtypes.append(flops.of_dtypes)


def done_in(steps: Sequence[Amounts]) -> Done:
    """The work of some steps together, without its time; reads numbers on the device, and waits for those.

    Args:
        steps: The work of each step, at least one.
    """
    samples, tokens, flops = np.array([(one.samples, one.tokens, one.flops) for one in steps]).sum(axis=0).tolist()
    return Done(
        steps=len(steps),
        samples=samples,
        tokens=tokens,
        real_tokens=_sum_on_device([number for one in steps for number in one.real_tokens]),
        loss_tokens=_sum_on_device([number for one in steps for number in one.loss_tokens]),
        flops=flops,
    )


def _sum_on_device(numbers: Sequence[torch.Tensor | None]) -> float:
    known = [number for number in numbers if number is not None]
    if not known or len(known) < len(numbers):
        return math.nan
    with accelerators.beside_training(known[0].device):
        return float(torch.stack(known).sum())
