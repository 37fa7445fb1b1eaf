"""Checks the operators' times against a clock of their own: `MFUCallback(operators=True)` on a GPT, on the CPU.

    python scripts/checks/operators.py
    python scripts/checks/operators.py --size gpt-medium --batch-size 1 --context-length 128

The model times each of its forward and backward passes and optimizer steps itself. What the operators of the profiled
batches took in a phase, with the time in which none ran, is compared with that phase of the same batches: a difference
of up to 3 % is right. Beside it stands the phase in the two batches before and after each, which were not profiled: the
machine's own changes, and what profiling costs. The FLOPs of all operators are compared with the count of the step.
Exits with 1 if any is off.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from rich.console import Console
from rich.table import Table

from gpt import SIZES, GPTModule, RandomTokens
from mfu_callback import MFUCallback
from mfu_callback.meter.per_operator import NO_OPERATOR
from mfu_callback.meter.summary import Summary
from mfu_callback.peaks.this_machine import device_name

PHASES = ("forward", "backward", "optimizer")
_TOLERANCE = 0.03
_WARMUP_STEPS, _STEPS = 1, 20  # the profiled batches with two more around each


class TimedGPT(GPTModule):
    """The GPT, with a clock of its own.

    Attributes:
        seconds: Seconds of each phase, by batch.
        is_profiled: Whether the batch was profiled, by batch.
    """

    def __init__(self, size: str) -> None:
        super().__init__(size)
        self.seconds: list[dict[str, float]] = []
        self.is_profiled: list[bool] = []

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Times what runs inside."""
        start = time.perf_counter()
        yield
        self.seconds[-1][phase] = time.perf_counter() - start

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """The loss; a batch begins."""
        self.seconds.append({})
        self.is_profiled.append(torch._C._autograd._profiler_enabled())
        with self.timed("forward"):
            return super().training_step(batch, batch_idx)

    def backward(self, loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        """The gradients."""
        with self.timed("backward"):
            super().backward(loss, *args, **kwargs)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The optimizer's step, which runs the passes inside: these are not its own."""
        with self.timed("optimizer"):
            super().optimizer_step(*args, **kwargs)
        self.seconds[-1]["optimizer"] -= self.seconds[-1]["forward"] + self.seconds[-1]["backward"]

    def of_batches(self, phase: str, batches: list[int]) -> float:
        """Mean seconds of a phase in some batches."""
        return float(np.mean([self.seconds[batch][phase] for batch in batches]))


def main() -> int:
    """Train, print the table, and return the exit status."""
    options = make_parser().parse_args()
    model, summary = train(options)
    profiled = [batch for batch, is_profiled in enumerate(model.is_profiled) if is_profiled]
    neighbors = [batch + shift for batch in profiled for shift in (-2, -1, 1, 2) if batch + shift < len(model.seconds)]
    table = Table("phase", "operators", "no operator", "same batches", "off", "batches around", "")
    verdicts = []
    for phase in PHASES:
        rows = [one for one in summary.operators or () if one.phase == phase]
        ran, gap = (sum(one.sec for one in rows if (one.name == NO_OPERATOR) is is_gap) for is_gap in (False, True))
        same, around = (model.of_batches(phase, batches) for batches in (profiled, neighbors))
        verdicts.append(verdict_on(ran + gap, same))
        off = f"{(ran + gap) / same - 1:+.2%}"
        table.add_row(phase, *(f"{sec:.4f} s" for sec in (ran, gap, same)), off, f"{around:.4f} s", verdicts[-1])
    print(f"{device_name(torch.device('cpu'))}, torch {torch.__version__}; seconds of one batch")
    Console(width=None if sys.stdout.isatty() else 110).print(table)
    counted = flops_of(summary)
    ran = sum(one.flops or 0 for one in summary.operators or () if one.phase in ("forward", "backward"))
    verdicts.append("right" if ran == counted else "WRONG")
    print(f"FLOPs of the operators {ran:.6e}, of the count {counted:.6e}: {verdicts[-1]}")
    return 1 if "WRONG" in verdicts else 0


def verdict_on(took: float, phase_sec: float) -> str:
    """Whether the seconds that were found of a phase are those that it took."""
    return "right" if abs(took / phase_sec - 1) <= _TOLERANCE else "WRONG"


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="gpt-small", help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--context-length", type=int, default=256, help="default: %(default)s")
    parser.add_argument("--precision", default="32-true", help="default: %(default)s")
    return parser


def train(options: argparse.Namespace) -> tuple[TimedGPT, Summary]:
    """Train with the callback; returns the model with its clock, and the summary."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    callback = MFUCallback(operators=True, warmup_steps=_WARMUP_STEPS, summary=None)
    trainer = Trainer(
        accelerator="cpu",
        precision=options.precision,
        max_steps=_STEPS,
        callbacks=[callback],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    model = TimedGPT(options.size)
    trainer.fit(model, datamodule=RandomTokens(batch_size=options.batch_size, context_length=options.context_length))
    assert callback.summary is not None
    return model, callback.summary


def flops_of(summary: Summary) -> float:
    """FLOPs of forward and backward of one batch that really run, by the count."""
    count = summary.flops
    assert count is not None
    assert count.backward is not None
    return float(count.forward + count.backward + (count.recomputed or 0))


if __name__ == "__main__":
    sys.exit(main())
