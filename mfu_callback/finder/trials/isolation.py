"""Contexts that hide trials from callbacks and loggers, and keep the random state unchanged."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from mfu_callback.lightning import namespaces
from mfu_callback.tools.accelerators import accelerators


@contextmanager
def unseen(trainer: Any) -> Iterator[None]:
    """A context in which a Trainer has no callbacks, loggers and profiler."""
    callbacks, loggers, profiler = trainer.callbacks, trainer.loggers, trainer.profiler
    trainer.callbacks, trainer.profiler = [], namespaces.of(trainer, "profilers", "PassThroughProfiler")()
    trainer.loggers = dummy_loggers(trainer)
    try:
        yield
    finally:
        trainer.callbacks, trainer.loggers, trainer.profiler = callbacks, loggers, profiler


@contextmanager
def accumulation_kept(trainer: Any) -> Iterator[None]:
    """A context after which a Trainer accumulates as many micro-batches as before."""
    before = trainer.accumulate_grad_batches
    try:
        yield
    finally:
        trainer.accumulate_grad_batches = before


def dummy_loggers(trainer: Any) -> list[Any]:
    """As many loggers that log nothing as a Trainer has loggers."""
    dummy_logger = namespaces.of(trainer, "loggers.logger", "DummyLogger")
    return [dummy_logger() for _ in trainer.loggers]


@contextmanager
def random_state_kept() -> Iterator[None]:
    """A context that restores the global random states of Python, numpy and torch, including those of all devices."""
    # Lightning's isolate_rng restores nothing after an exception.
    python, array = random.getstate(), np.random.get_state()
    devices = accelerators()
    kind = devices[0].type if devices else "cuda"
    with torch.random.fork_rng(devices=range(len(devices)), device_type=kind):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(array)


@contextmanager
def quick_collections() -> Iterator[None]:
    """A context in which garbage collections skip the objects that existed before it."""
    # Each trial ends with a full collection. Most of its time, a fifth of a second, goes to the objects from before.
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
