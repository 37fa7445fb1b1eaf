"""What keeps trials from being seen, and from being felt in the random numbers that come after them."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.profilers import PassThroughProfiler


@contextmanager
def unseen(trainer: Any) -> Iterator[None]:
    """Take callbacks, loggers and the profiler away from a Trainer."""
    callbacks, loggers, profiler = trainer.callbacks, trainer.loggers, trainer.profiler
    trainer.callbacks, trainer.profiler = [], PassThroughProfiler()
    trainer.loggers = [DummyLogger() for _ in loggers]
    try:
        yield
    finally:
        trainer.callbacks, trainer.loggers, trainer.profiler = callbacks, loggers, profiler


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Put the global random states of Python, numpy and torch back, those of all devices too."""
    # Lightning's isolate_rng puts nothing back after an exception.
    python, array = random.getstate(), np.random.get_state()
    accelerator = torch.accelerator.current_accelerator()
    kind = "cuda" if accelerator is None else accelerator.type
    with torch.random.fork_rng(devices=range(torch.accelerator.device_count()), device_type=kind):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(array)


@contextmanager
def quick_collections() -> Iterator[None]:
    """Leave what is there already out of garbage collections."""
    # Each trial ends with a full one, of which what was there before takes the most time: a fifth of a second.
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
